"""Show samples measured elsewhere through pytest-benchmark's public interface. Pure: no pytest, no torch, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from genqual.cases import Json
from genqual.metrics.compute import BadClock


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture; all of it is documented there."""

    enabled: bool
    extra_info: dict[str, Any]
    group: str | None

    def pedantic(self, target: Callable[[], None], *, rounds: int, iterations: int) -> object: ...


class ReplayClock:
    """A timer that tells pytest-benchmark how long steps took that ran in a rank.

    Give it as `request.node.add_marker(pytest.mark.benchmark(timer=clock))` before the `benchmark` fixture is set up,
    then call `replay`. A round is read, `step`, read; the clock reads 0 before the step and the sample after it, so the
    difference is the sample itself, without a rounding error. Everything else (`benchmark(fn)`, which calibrates
    against the timer; iterations; more rounds than samples) raises BadClock instead of recording nonsense.
    """

    __name__ = "genqual.metrics.pytest_benchmark"  # pytest-benchmark prints it as the timer, in place of an address

    _IDLE: Final = 0
    _STARTED: Final = 1
    _STEPPED: Final = 2

    def __init__(self, samples: Iterable[float] = ()) -> None:
        self._samples: tuple[float, ...] = ()
        self._next = 0
        self._state = self._IDLE
        self.load(samples)

    @property
    def replayed(self) -> int:
        """How many samples were read so far."""
        return self._next

    def load(self, samples: Iterable[float]) -> None:
        """Replay these durations, seconds, next. Raises BadClock when one is not finite or not above zero."""
        taken = tuple(float(sample) for sample in samples)
        for index, sample in enumerate(taken):
            if not math.isfinite(sample) or sample <= 0.0:
                raise BadClock(f"sample {index} is {sample} s: a duration is finite and above zero")
        self._samples, self._next, self._state = taken, 0, self._IDLE

    def step(self) -> None:
        """The benchmarked function. Does nothing unless a round has begun: benchmarks may be off, or profiled."""
        if self._state == self._STARTED:
            if self._next == len(self._samples):
                raise BadClock(f"all {self._next} samples are replayed; rounds must equal their number")
            self._state = self._STEPPED
        elif self._state == self._STEPPED:
            raise BadClock("two steps in one round; a replay needs iterations=1")

    def __call__(self) -> float:
        if self._state == self._STEPPED:
            self._state = self._IDLE
            self._next += 1
            return self._samples[self._next - 1]
        if self._state == self._STARTED:
            raise BadClock("read twice without a step: call genqual.metrics.pytest_benchmark.replay, not benchmark(fn)")
        self._state = self._STARTED
        return 0.0


def replay(
    benchmark: Benchmark, clock: ReplayClock, samples: Iterable[float], *, group: str | None = None, **extra_info: Json
) -> bool:
    """Enter `samples`, seconds, into pytest-benchmark as the rounds of the running test; True when they were recorded.

    False, and nothing recorded, when pytest-benchmark is disabled (`--benchmark-disable`, or any use of xdist: it
    disables itself). That is display only: a verdict never depends on the answer. `group` is the table to stand in.
    Raises BadClock on samples that are no durations, none at all, or a `clock` that is not the fixture's timer.
    """
    clock.load(samples)
    rounds = len(clock._samples)
    if rounds == 0:
        raise BadClock("no samples to replay")
    benchmark.extra_info.update(extra_info)
    if group is not None:
        benchmark.group = group
    benchmark.pedantic(clock.step, rounds=rounds, iterations=1)
    if benchmark.enabled and clock.replayed != rounds:
        raise BadClock(
            f"pytest-benchmark read {clock.replayed} of {rounds} samples: its timer is another clock; add the mark "
            "benchmark(timer=clock) before the fixture `benchmark` is set up"
        )
    return benchmark.enabled
