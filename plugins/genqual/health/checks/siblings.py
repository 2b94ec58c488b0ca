"""Cores in turns with the same work: one that is slower than its siblings is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

import numpy as np

from genqual.health.checks.base import Node
from genqual.health.children import ends_with_us
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.outcomes import bad
from genqual.health.stragglers import LEAST, standings

ROUNDS: Final = 120


class Stragglers:
    """One process a core; each answers in turn, so that a moment of the host meets all of them alike."""

    name = "stragglers"
    summary = "the same work on one core after the other; a slower one is named"
    required = False
    seconds = 12.0
    stretches = False
    privileges = "none"

    def __init__(self, slower: dict[int, float] | None = None) -> None:
        self._slower = slower or {}  # core -> more work, for tests

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        """A finding a core; one for the host where there are no siblings or a process died."""
        if len(node.cores) < 2:
            yield self._silent(Outcome.UNAVAILABLE, "one core has no siblings: judge it with --under-test node")
            return
        node.say(f"{self.name}: {ROUNDS} rounds over {len(node.cores)} cores")
        times: dict[str, list[float]] = {f"core {core}": [] for core in node.cores}
        with ExitStack() as stack:
            workers = [stack.enter_context(self._worker(core)) for core in node.cores]
            try:
                for _ in range(ROUNDS):
                    for core, worker in zip(node.cores, workers, strict=True):
                        times[f"core {core}"].append(_ask(worker))
            except (OSError, ValueError) as error:
                yield self._silent(Outcome.UNKNOWN, f"a worker ended by itself: {error}")
                return
            finally:
                for worker in workers:
                    worker.kill()
        limit = Threshold(value=LEAST, unit="slower than the median of its siblings", source="interval of 99.99 %")
        for one in standings({name: np.array(values) for name, values in times.items()}):
            said = f"{one.slower:+.1%} ({one.low:+.1%} to {one.high:+.1%}) in {ROUNDS} rounds"
            if one.is_straggler:
                yield bad(f"{self.name}.slow", one.entity, said, signal=one.slower, threshold=limit)
            else:
                yield Finding(
                    check=self.name,
                    entity=one.entity,
                    outcome=Outcome.OK,
                    signal=one.slower,
                    threshold=limit,
                    evidence=said,
                )

    def _worker(self, core: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "genqual.health.stress", "--serve", "--core", str(core)]
        command += ["--slower", str(self._slower.get(core, 0.0))]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=ends_with_us(),
        )

    def _silent(self, outcome: Outcome, why: str) -> Finding:
        return Finding(check=self.name, entity="host", outcome=outcome, evidence=why)


def _ask(worker: subprocess.Popen[str]) -> float:
    """Seconds of one piece of work. Raises ValueError or OSError where the worker is gone."""
    if worker.stdin is None or worker.stdout is None:
        raise ValueError("a worker without pipes")
    worker.stdin.write("\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())
