"""From the alternated times of a launch to what a baseline keeps of it. Pure: NumPy only; no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genqual.gate.baseline_file import Launch
from genqual.metrics.compute import BadClock

Times = NDArray[np.float64]
Marks = NDArray[np.int64]

_FLOOR = 0.05  # the level of the fastest steps: enough of them to be no accident, and what others cannot have slowed
_CHUNKS = 8  # at most so many blocks a launch, each of at least eight steps


def launch_of(times: Sequence[Times], marks: Marks, *, cpu_share: float | None, batch: int = 0) -> Launch:
    """One metric of one launch.

    `times` has an entry a rank, (steps, 3) seconds: the candidate's step, the reference step before and after it;
    `marks` (steps, 2): call, slowed on purpose. Ranks meet in every step but not in reference steps, so a rank that
    ends its reference step early waits inside the candidate: the shortest time is the one since the last rank was
    there, and its clock is that of the slowest rank. Raises BadClock on times that cannot be, ValueError on too few
    steps.
    """
    if len({rank.shape for rank in times}) != 1 or len(marks) != len(times[0]) or len(marks) < 8:
        raise ValueError(f"{[rank.shape for rank in times]} times, {marks.shape} marks: one shape, at least 8 steps")
    stack = np.stack(times)
    candidates, clocks = _against(stack, "step")
    candidate, frozen = candidates.min(axis=0), clocks.max(axis=0)
    ratio = np.log(candidate / frozen)
    slowed = marks[:, 1].astype(bool)
    plain = candidate[~slowed]
    p50, p90, p99 = (float(np.quantile(plain, level)) for level in (0.5, 0.9, 0.99))
    same, apart = _blocks(ratio, slowed)
    return Launch(
        z=float(np.median(ratio[~slowed])),
        raw=float(np.median(np.log(plain))),
        frozen=float(np.median(np.log(frozen))),
        steps=int((~slowed).sum()),
        p50=p50,
        p90=p90,
        p99=p99,
        autocorrelation_steps=correlation_time(ratio[~slowed]),
        cpu_share=cpu_share,
        same=same,
        slowed=apart,
        floor=float(np.quantile(np.log(plain), _FLOOR)),
        frozen_floor=float(np.quantile(np.log(frozen), _FLOOR)),
        batch=batch,
    )


def loads_of(times: Sequence[Times]) -> Launch:
    """Load time of one launch that loaded again and again.

    `times` has an entry a rank, (loads, 3) seconds: loading, a plain read of the same bytes before and after it. A load
    takes as long as on its slowest rank. Raises BadClock on times that cannot be.
    """
    candidates, clocks = _against(np.stack(times), "load")
    candidate, frozen = candidates.max(axis=0), clocks.mean(axis=0)
    p50, p90, p99 = (float(np.quantile(candidate, level)) for level in (0.5, 0.9, 0.99))
    return Launch(
        z=float(np.median(np.log(candidate / frozen))),
        raw=float(np.median(np.log(candidate))),
        frozen=float(np.median(np.log(frozen))),
        steps=len(candidate),
        p50=p50,
        p90=p90,
        p99=p99,
        autocorrelation_steps=None,
        cpu_share=None,
    )


def _against(stack: Times, what: str) -> tuple[Times, Times]:
    """Each rank's times, and the clock beside them: (ranks, steps), the geometric mean of before and after."""
    if not np.isfinite(stack).all() or (stack <= 0.0).any():
        step = int(np.argwhere(~np.isfinite(stack) | (stack <= 0.0))[0][1])
        took = stack[:, step].min()
        raise BadClock(f"{what} {step} of a launch took {took} s: a {what} takes a finite time above zero")
    return stack[:, :, 0], np.exp(np.log(stack[:, :, 1:]).mean(axis=2))


def single(value: float, against: float | None, *, batch: int = 0) -> Launch:
    """A metric that a launch has once: load time in seconds against plainly reading the bytes, or bytes alone."""
    if not math.isfinite(value) or value <= 0.0 or (against is not None and not against > 0.0):
        raise BadClock(f"a launch read {value} against {against}: both are finite and above zero")
    raw, frozen = math.log(value), None if against is None else math.log(against)
    return Launch(
        z=raw - (frozen or 0.0),
        raw=raw,
        frozen=frozen,
        steps=1,
        p50=value,
        p90=value,
        p99=value,
        autocorrelation_steps=None,
        cpu_share=None,
        batch=batch,
    )


def _blocks(ratio: Times, slowed: NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Differences within blocks of neighbouring steps: between alternate plain ones, and of slowed to plain ones."""
    same, apart = [], []
    for part in np.array_split(np.arange(len(ratio)), min(_CHUNKS, len(ratio) // 8)):
        plain, slow = ratio[part][~slowed[part]], ratio[part][slowed[part]]
        same.append(float(np.median(plain[::2]) - np.median(plain[1::2])))
        apart.append(float(np.median(slow) - np.median(plain)))
    return tuple(same), tuple(apart)


def correlation_time(values: Times) -> float:
    """How many neighbouring steps are worth one: 1 + 2 x the sum of autocorrelations up to the first negative pair.

    Source: Geyer, Practical Markov chain Monte Carlo, Statistical Science 7 (1992), the initial positive sequence.
    """
    centred = values - values.mean()
    power = float((centred * centred).sum())
    if power == 0.0:
        return 1.0
    lags = [float((centred[:-lag] * centred[lag:]).sum()) / power for lag in range(1, len(values) // 2)]
    total = 1.0 + 2.0 * (lags[0] if lags else 0.0)
    for even, odd in zip(lags[1::2], lags[2::2], strict=False):
        if even + odd <= 0.0:
            break
        total += 2.0 * (even + odd)
    return max(1.0, total)
