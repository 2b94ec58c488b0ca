"""The same generation again and again, with its times and the memory of its rank. In ranks, by `invoke`."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import TokenBatch

I64 = NDArray[np.int64]
_MEMORY_S: Final = 2.0  # between two readings of memory: one takes some 12 ms on two EPYC cores, between generations


def again(engine: Any, *, ids: I64, mask: I64, steps: int, runs: int, trim: bool) -> dict[str, NDArray[np.float64]]:
    """Of `runs` generations of `steps` tokens: `at_s` (runs,), the monotonic time of each one's end, and `tpot_s`.

    Of memory `read_s` (readings,), the monotonic time of each reading, and `held_bytes`: every two seconds, between
    generations, so that no step that is timed waits for it. `trim` first gives freed pages back: a leak of 24 MiB in
    the room that loading a model had freed showed as no growth at all.
    """
    if trim:
        engine.memory(trim=True)
    batch = TokenBatch(np.array(ids), np.array(mask))
    at: list[float] = []
    tpot: list[float] = []
    read: list[tuple[float, float]] = []
    for _ in range(runs):
        stamps = engine.generate(batch, steps).step_s
        tpot.append(float(stamps[-1] - stamps[0]) / (steps - 1))
        at.append(time.monotonic())
        if not read or at[-1] - read[-1][0] >= _MEMORY_S:
            read.append((at[-1], float(engine.memory().current)))
    when, held = zip(*read, strict=True)
    return {"at_s": np.array(at), "tpot_s": np.array(tpot), "read_s": np.array(when), "held_bytes": np.array(held)}
