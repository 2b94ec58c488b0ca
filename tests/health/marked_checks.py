"""A plugin of pytest for test_items_resume: three checks that keep a count of the run's moments, and end it at one.

The environment names the folder of what ran, as HERE, and the moment, as MOMENT; -1 is none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from genqual.atomic import write_whole
from genqual.health import levels, run_state
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, Outcome
from genqual.health.outcomes import bad

HERE, MOMENT = Path(os.environ["HERE"]), int(os.environ["MOMENT"])
marks = 0


def mark() -> None:
    """A moment of the run, counted; at the chosen one this process is gone."""
    global marks
    if marks == MOMENT:
        os.kill(os.getpid(), signal.SIGKILL)
    marks += 1
    (HERE / "marks").write_text(str(marks))


class Marked:
    """A check with a moment before its finding, and one after."""

    summary, privileges, required, seconds, stretches = "for tests", "none", True, 1.0, False

    def __init__(self, name: str, wrong: bool = False) -> None:
        self.name, self.wrong = name, wrong

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        mark()
        with (HERE / "ran").open("a") as stream:
            stream.write(self.name + "\n")
        yield Finding(check=self.name, entity="core 0", outcome=Outcome.OK, required=True, signal=1.0, evidence="seen")
        mark()
        if self.wrong:
            one = bad("known_answers.wrong", "core 1", "1 of 5 wrong", signal=1.0)
            yield one.model_copy(update={"check": self.name})


def written(path: Path, data: bytes) -> None:
    mark()
    write_whole(path, data)
    mark()


run_state.write_whole = written  # type: ignore[attr-defined]
levels.SECONDS = {"1": 14.0, "2": 15.0}  # type: ignore[misc]
levels.CHECKS = (Marked("first"), Marked("wrong", True), Marked("last"))  # type: ignore[misc]
