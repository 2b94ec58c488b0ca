"""Measure a workload on a live group of ranks, once for all items that ask. No torch, no pytest, no clock."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

from genqual.cases import Case, Json, Workload
from genqual.engines.base import Generated, Loaded, Memory, TokenBatch
from genqual.errors import EngineFailed, OutOfMemory, Unsupported
from genqual.metrics.compute import BadClock, checked
from genqual.metrics.energy import Used


class Group(Protocol):
    """A live group of ranks with a model loaded. `loaded` and `memory` have one entry a rank, in rank order."""

    @property
    def loaded(self) -> Sequence[Loaded]: ...

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """Greedy, the timed path; the slower rank's time of each step, the CPU time of all. Raises OutOfMemory."""
        ...

    def memory(self, *, reset: bool = False, trim: bool = False) -> Sequence[Memory]: ...


class Energy(Protocol):
    """What the hardware used within a window, once the window has ended."""

    @property
    def used(self) -> Used: ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One workload, measured in one launch. `runs` are the timed repetitions; the warm-up is not among them.

    `status` "oom" is an outcome: `message` is the rank's, `runs` is empty, and the caller must still prove that the
    group generates correctly. `cpu_share` is the median over runs of CPU seconds / (wall seconds x threads of all
    ranks): well below its usual value, somebody else had the cores. `before` and `after` are the device's conditions.
    `energy` is of all timed runs together, None where nobody asked.
    """

    status: Literal["ok", "oom"]
    workload: Workload
    loaded: tuple[Loaded, ...]
    runs: tuple[Generated, ...]
    warmup: int
    memory: tuple[Memory, ...] = ()
    cpu_share: float | None = None
    before: Mapping[str, Json] = field(default_factory=dict)
    after: Mapping[str, Json] = field(default_factory=dict)
    message: str = ""
    energy: Used | None = None

    def __post_init__(self) -> None:
        if (self.status == "ok") != bool(self.runs):
            raise ValueError(f"status {self.status} with {len(self.runs)} runs: ok has runs, oom has none")

    @property
    def peak_memory(self) -> int | None:
        """Bytes on the rank that used most, or None when it was not read."""
        return max((rank.peak for rank in self.memory), default=0) or None


def measure(
    group: Group,
    workload: Workload,
    rows: Sequence[Sequence[int]] | Callable[[], Sequence[Sequence[int]]],
    *,
    repetitions: int,
    warmup: int,
    threads: int = 1,
    conditions: Callable[[], Mapping[str, Json]] = dict,
    energy: Callable[[], AbstractContextManager[Energy | None]] = nullcontext,
) -> Measurement:
    """Generate `warmup` times, then `repetitions` times for the record, on `rows` (batch rows of input_length ids).

    Where `rows` is a function, it is called for the prompts of each run, the warm-up's too.
    `threads` is how many each rank computes with; `conditions` is the device's, read before the first and after the
    last timed run; `energy` makes the window that stands round the timed runs. Freed memory is given back before the
    warm-up and the peak reset after it, so that it is the workload's own. Raises ValueError on rows that are not the
    workload, BadClock on times that cannot be; every error of `group` but OutOfMemory passes through.
    """
    if repetitions < 1 or warmup < 0 or threads < 1:
        raise ValueError(f"repetitions {repetitions}, warmup {warmup}, threads {threads}: at least 1, 0 and 1")
    if callable(rows):
        batches = [_batch(rows(), workload) for _ in range(warmup + repetitions)]
    else:
        batches = [_batch(rows, workload)] * (warmup + repetitions)
    loaded = tuple(group.loaded)
    before: Mapping[str, Json] = {}
    runs: list[Generated] = []
    try:
        group.memory(trim=True)  # not after the warm-up: the pages that it gave back would be missed in a timed run
        for batch in batches[:warmup]:
            group.generate(batch, workload.new_tokens)
        group.memory(reset=True)
        before = conditions()
        with energy() as window:
            for index, batch in enumerate(batches[warmup:]):
                runs.append(group.generate(batch, workload.new_tokens))
                checked(runs[-1], workload, where=f"repetition {index}")
    except OutOfMemory as error:
        return Measurement("oom", workload, loaded, (), warmup, before=before, after=conditions(), message=str(error))
    after = conditions()
    return Measurement(
        "ok",
        workload,
        loaded,
        tuple(runs),
        warmup,
        memory=tuple(group.memory()),
        cpu_share=statistics.median(_cpu_share(run, threads * len(loaded)) for run in runs),
        before=before,
        after=after,
        energy=None if window is None else window.used,
    )


def _batch(rows: Sequence[Sequence[int]], workload: Workload) -> TokenBatch:
    """The prompts of one run. Raises ValueError on rows that are not the workload."""
    lengths = {len(row) for row in rows}
    if len(rows) != workload.batch or lengths != {workload.input_length}:
        raise ValueError(f"{len(rows)} rows of length {sorted(lengths)} are not the workload {workload.id}")
    return TokenBatch.of(rows)


def _cpu_share(run: Generated, threads: int) -> float:
    if not math.isfinite(run.cpu_s) or run.cpu_s < 0.0:
        raise BadClock(f"CPU time {run.cpu_s} s: must be finite and not negative")
    return run.cpu_s / (run.wall_s * threads)


class Measurements:
    """One measurement a case and workload, shared by all items that ask: TTFT and TPOT are of the same run.

    A failure is kept as well, so that each item of a broken case fails with the cause instead of running it again. A
    lost group is not kept: it is no Exception of ours, and the next item may have a fresh group.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Case, Workload], Measurement | Unsupported | EngineFailed | BadClock] = {}

    def get(self, case: Case, workload: Workload, make: Callable[[], Measurement]) -> Measurement:
        """The kept measurement, or `make()`, kept. Raises what `make` raised, the first time and every time."""
        key = (case, workload)
        if key not in self._kept:
            try:
                self._kept[key] = make()
            except (Unsupported, EngineFailed, BadClock) as error:
                self._kept[key] = error
        kept = self._kept[key]
        if isinstance(kept, Measurement):
            return kept
        raise kept.with_traceback(None)
