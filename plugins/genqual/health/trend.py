"""By how much something changes over a time, with an interval: a leak, a slowdown. Pure: NumPy only; no clock."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.health.stragglers import CONFIDENCE, order_of

BLOCKS: Final = 27
"""Equal parts of the time. What is near in time is disturbed together: a block's median is one piece of evidence."""


@dataclass(frozen=True, slots=True)
class Trend:
    """The change from the first block to the last, an interval of 99.99 % that holds it, the median of the first."""

    change: float
    low: float
    high: float
    first: float


def trend(at_s: NDArray[np.float64], values: NDArray[np.float64], blocks: int = BLOCKS) -> Trend:
    """The line through the medians of `blocks` equal parts of the time: Theil and Sen's, the median of all slopes.

    `at_s` and `values` (samples,), in any order. The interval is Sen's, exact: how many slopes lie below the true one
    is how many pairs of an arbitrary order are the wrong way round. It takes blocks that are independent beside the
    line. Raises ValueError on a block without a sample, on numbers that are not finite, and on fewer than eight blocks.
    """
    if at_s.shape != values.shape or at_s.ndim != 1 or not (np.isfinite(at_s).all() and np.isfinite(values).all()):
        raise ValueError("times and values must be finite, and as many")
    rank = _order(blocks)
    edges = np.linspace(at_s.min(initial=np.inf), at_s.max(initial=-np.inf), blocks + 1)[1:-1] if len(at_s) else at_s
    of = np.searchsorted(edges, at_s, side="right")
    if len(set(of.tolist())) < blocks:
        raise ValueError(f"{len(set(of.tolist()))} of {blocks} parts of the time have a sample; each needs one")
    medians = np.array([np.median(values[of == block]) for block in range(blocks)])
    first, second = np.triu_indices(blocks, 1)
    slopes = np.sort((medians[second] - medians[first]) / (second - first)) * (blocks - 1)
    return Trend(float(np.median(slopes)), float(slopes[rank]), float(slopes[-1 - rank]), float(medians[0]))


@functools.cache
def _order(blocks: int) -> int:
    """The order statistic of all slopes, from each end, whose interval holds the true one with CONFIDENCE.

    Of all orders of `blocks` things, the share that has each number of pairs the wrong way round. Raises ValueError.
    """
    chances = np.ones(1)
    for number in range(1, blocks + 1):
        chances = np.convolve(chances, np.full(number, 1.0 / number))
    return order_of(chances, f"{blocks} blocks are too few for an interval of {CONFIDENCE:.2%}; at least 8 are needed")
