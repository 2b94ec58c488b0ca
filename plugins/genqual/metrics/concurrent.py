"""Metrics of several instances that ran side by side. Pure: NumPy only; no clock, no torch, no process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genqual.cases import Workload
from genqual.engines.base import Generated
from genqual.metrics.compute import Measured, checked, time_per_token
from genqual.metrics.definitions import EVERY


def compute(runs: Sequence[Sequence[Generated]], workload: Workload) -> dict[str, Measured]:
    """From `runs[repetition][instance]`: tokens a second of all, and TPOT of the slowest, absent where a run has none.

    Raises BadClock, ValueError on repetitions of different counts of instances.
    """
    steps = np.array(
        [
            [checked(run, workload, where=f"repetition {index}, instance {place}") for place, run in enumerate(each)]
            for index, each in enumerate(runs)
        ]
    )  # (repetitions, instances, steps)
    tokens, new = workload.batch * workload.new_tokens, workload.new_tokens
    total = (tokens / steps[:, :, -1]).sum(axis=1)
    found = {"instances_tokens_per_s": _metric("instances_tokens_per_s", float(np.median(total)), total.tolist())}
    times = [[time_per_token(run) for run in each] for each in runs]
    if new > 1 and not any(one is None for each in times for one in each):
        slowest = np.median(np.array(times, dtype=np.float64), axis=0)
        found["instances_tpot"] = _metric("instances_tpot", float(slowest.max()), slowest.tolist())
    return found


def _metric(name: str, value: float, samples: list[float]) -> Measured:
    one = EVERY[name]
    return Measured(name, one.unit, value, tuple(samples), one.statistic, one.better)
