"""`genqual node` for test_resume, of four checks that keep a count of the run's moments, and end it at one.

A run's words are the folder of what ran, the moment, -1 for none, and words of `genqual node`; see tests.plugin.forked.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genqual.atomic import write_whole
from genqual.cli import main
from genqual.commands import node as _node  # noqa: F401 - imported once for all forks
from genqual.health import levels, run_state
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, NodeVerdict, Outcome
from genqual.health.outcomes import bad
from tests.plugin import forked


class Moments:
    """Moments of the run, counted; at the chosen one this process is gone."""

    def __init__(self, here: Path, chosen: int) -> None:
        self.here, self.chosen, self.marks = here, chosen, 0

    def mark(self) -> None:
        if self.marks == self.chosen:
            os.kill(os.getpid(), signal.SIGKILL)
        self.marks += 1
        (self.here / "marks").write_text(str(self.marks))

    def written(self, path: Path, data: bytes) -> None:
        self.mark()
        write_whole(path, data)
        self.mark()


class Marked:
    """A check with a moment before its finding, and one after."""

    summary, privileges, seconds, stretches = "for tests", "none", 1.0, False

    def __init__(self, moments: Moments, name: str, *, required: bool, wrong: bool = False) -> None:
        self.moments, self.name, self.required, self.wrong = moments, name, required, wrong

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        here = self.moments.here
        self.moments.mark()
        with (here / "ran").open("a") as stream:
            stream.write(self.name + "\n")
        if self.name == "strikes" and not (here / "struck").exists():
            (here / "struck").touch()  # once, as hardware does: nobody sees it again after the kill
            with (node.root / "dev/kmsg").open("a") as stream:
                stream.write("2,101,6000,-;EDAC MC1: 1 UE memory read error on DIMM#3 (channel:0)\n")
        yield Finding(check=self.name, entity="core 0", outcome=Outcome.OK, required=self.required, signal=1.0)
        self.moments.mark()
        if self.wrong:
            one = bad("known_answers.wrong", "core 1", "1 of 5 wrong", signal=1.0)
            yield one.model_copy(update={"check": self.name})


def run() -> None:
    """The run that the words of this process ask for."""
    here, moments = Path(sys.argv[1]), Moments(Path(sys.argv[1]), int(sys.argv[2]))
    real = levels.run

    def on_stand_in(node: Node, level: levels.Level, **more: Any) -> NodeVerdict:
        first, strikes = Marked(moments, "first", required=True), Marked(moments, "strikes", required=False)
        wrong, last = Marked(moments, "wrong", required=True, wrong=True), Marked(moments, "last", required=False)
        more["checks"] = [first, strikes, wrong, last]
        return real(dataclasses.replace(node, root=here / "root"), level, **more)

    tempfile.gettempdir = lambda: str(here)
    run_state.write_whole = moments.written  # type: ignore[attr-defined]
    levels.run = on_stand_in
    sys.argv = ["genqual", "node", "--level", "2", "--state", str(here / "state.json"), *sys.argv[3:]]
    main()


if __name__ == "__main__":
    forked.serve(run)
