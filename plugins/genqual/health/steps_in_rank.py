"""How long a rank itself computes at each step of a generation that all ranks make together. In ranks, by `invoke`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.engines.base import TokenBatch
from genqual.health.places_in_rank import standing

I64 = NDArray[np.int64]


def step_times(
    engine: Any, *, ids: I64, mask: I64, steps: int, runs: int, cores: Sequence[Sequence[int]] = ()
) -> dict[str, Json | NDArray[np.float64]]:
    """`cpu_s` (runs, steps - 1): CPU seconds of the thread that computes, from step to step, over `runs` generations.

    With `cores`, those of each rank, the ranks change places: in run i rank r stands where rank r + i would. Then a
    slow rank is told from a slow core (`stragglers.rank_standings`).

    CPU time, since ranks that exchange activations end each step together: whoever is slow makes all wait, and waiting
    takes none. Of that thread alone: gloo's own poll while they wait, for as long as the model computes. On an
    accelerator it says nothing: `why_not` says so, and the ranks' own device times are wanted.
    """
    if engine.device != "cpu":
        return {"why_not": f"per-rank step times on {engine.device} need the device's own clock: not measured yet"}
    batch, found = TokenBatch(np.array(ids), np.array(mask)), []
    stamps: list[float] = []
    engine.between_steps(lambda: stamps.append(time.thread_time()))
    try:
        for run in range(runs):
            with _place(cores, run):
                stamps.clear()
                engine.generate(batch, steps)
            found.append(np.diff(stamps))
    finally:
        engine.between_steps(None)
    return {"cpu_s": np.array(found, dtype=np.float64)}


def _place(cores: Sequence[Sequence[int]], run: int) -> contextlib.AbstractContextManager[None]:
    """On the cores that are this rank's place in `run`; without `cores`, where it is."""
    if not cores:
        return contextlib.nullcontext()
    return standing(cores[(int(os.environ.get("RANK", "0")) + run) % len(cores)])
