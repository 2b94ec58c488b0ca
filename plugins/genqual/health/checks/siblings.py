"""Cores or cards in turns with the same work: one that is slower than its siblings is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from threading import Timer
from typing import Final

import numpy as np

from genqual.health.checks.base import Node
from genqual.health.checks.spots import Spot, spots
from genqual.health.children import ends_with_us
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.outcomes import bad
from genqual.health.stragglers import LEAST, standings

ROUNDS: Final = 120
_ANSWER_S: Final = 0.02  # of a card: long beside the launch of a kernel
_START_S: Final = 120.0  # what importing torch and opening a card may take, beyond the time of the check


class Stragglers:
    """One process a core or card; each answers in turn, so that a moment of the host meets all of them alike.

    A core's answer is CPU time. A card's is wall time. Cards of one kind are siblings, and as much work
    is asked of each as takes the first of them 20 ms, or less where there are many.
    """

    name = "stragglers"
    summary = "the same work on one core or card after the other; a slower one is named"
    required = False
    seconds = 12.0
    stretches = False
    privileges = "none"

    def __init__(self, slower: dict[int, float] | None = None) -> None:
        self._slower = slower or {}  # number of the core, or place of the card -> more work, for tests

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        """A finding a core or card; one for the host where there are no siblings or a process died."""
        places, kind = spots(node), "card" if node.cards else "core"
        if len(places) < 2:
            yield self._silent(Outcome.UNAVAILABLE, f"one {kind} has no siblings: judge it with --under-test node")
            return
        node.say(f"{self.name}: {ROUNDS} rounds over {len(places)} {kind}s")
        answer_s = min(_ANSWER_S, seconds / 2.0 / ROUNDS / len(places))
        times: dict[str, list[float]] = {spot.entity: [] for spot in places}
        numbers = range(len(places)) if node.cards else node.cores
        with ExitStack() as stack:
            workers = [
                stack.enter_context(self._worker(spot, self._slower.get(number, 0.0)))
                for number, spot in zip(numbers, places, strict=True)
            ]
            # A card that hangs answers nothing: its worker ends then, and reading from it, too.
            watch = Timer(seconds + _START_S, _kill, [workers])
            watch.start()
            asked = places[0]
            try:
                pieces = dict.fromkeys((spot.kind for spot in places), 1)
                for asked, worker in zip(places, workers, strict=True) if node.cards else ():
                    if pieces[asked.kind] == 1:
                        pieces[asked.kind] = _pieces(worker, answer_s)
                for _ in range(ROUNDS):
                    for asked, worker in zip(places, workers, strict=True):
                        times[asked.entity].append(_ask(worker, pieces[asked.kind]))
            except (OSError, ValueError) as error:
                late = "" if watch.is_alive() else f", {seconds + _START_S:.0f} s after it was started"
                yield self._silent(Outcome.UNKNOWN, f"the worker of {asked.entity} ended{late}: {error}")
                return
            finally:
                watch.cancel()
                _kill(workers)
        for siblings in {
            spot.kind: [one.entity for one in places if one.kind == spot.kind] for spot in places
        }.values():
            yield from self._among({name: times[name] for name in siblings})

    def _among(self, times: dict[str, list[float]]) -> Iterator[Finding]:
        """A finding on each of these siblings; one that is the only one of its kind has none."""
        if len(times) < 2:
            yield self._silent(Outcome.UNAVAILABLE, f"{', '.join(times)}: the only card of its kind has no siblings")
            return
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

    def _worker(self, spot: Spot, slower: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "genqual.health.stress", "--serve", *spot.words, "--slower", str(slower)]
        return subprocess.Popen(
            command,
            env=spot.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=ends_with_us(),
        )

    def _silent(self, outcome: Outcome, why: str) -> Finding:
        return Finding(check=self.name, entity="host", outcome=outcome, evidence=why)


def _kill(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.kill()


def _pieces(worker: subprocess.Popen[str], answer_s: float) -> int:
    """So many pieces of work as take this card `answer_s`; all of its kind are then asked for as many."""
    _ask(worker, 1)  # the first allocates, and loads kernels
    return max(1, round(answer_s / min(_ask(worker, 1) for _ in range(3))))


def _ask(worker: subprocess.Popen[str], pieces: int) -> float:
    """Seconds of so many pieces of work. Raises ValueError or OSError where the worker is gone."""
    if worker.stdin is None or worker.stdout is None:
        raise ValueError("a worker without pipes")
    worker.stdin.write(f"{pieces}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())
