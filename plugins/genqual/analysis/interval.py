"""Bootstrap intervals of a value and of a ratio from raw samples. Pure: NumPy only.

The steps of one launch are not independent, so with a single launch an interval is too narrow to decide anything on;
verdicts are the latency gate's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from genqual.records.metric import Metric

if TYPE_CHECKING:  # NumPy is imported once there are samples to draw from, as in outputs.py
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEWEST: Final = 5  # samples a side
RESAMPLES: Final = 2000
LEVEL: Final = 0.95
SEED: Final = 20240229
CHUNK: Final = 2**20  # numbers drawn at once: 8 MB, whatever the count of samples

_PERCENTILE = re.compile(r"(\d+(?:\.\d+)?)th percentile")


def ratio_interval(over: Sequence[Metric], under: Sequence[Metric]) -> tuple[float, float] | None:
    """The 95 % percentile interval of value(over) / value(under), or None where raw samples cannot give one.

    Each side holds one metric an attempt. Attempts are drawn first, then the samples within them, so that a difference
    between launches widens the interval. None when a side has fewer than 5 samples or a sample that is not positive,
    or when its samples do not reproduce its value by its statistic.
    """
    if _few(over) or _few(under):
        return None
    import numpy as np

    random = np.random.default_rng(SEED)
    sides = [_resampled(side, random) for side in (over, under)]
    if sides[0] is None or sides[1] is None:
        return None
    low, high = np.quantile(sides[0] / sides[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval(attempts: Sequence[Metric]) -> tuple[float, float] | None:
    """The 95 % percentile interval of a metric's value over `attempts`, or None as for `ratio_interval`."""
    if _few(attempts):
        return None
    import numpy as np

    drawn = _resampled(attempts, np.random.default_rng(SEED))
    if drawn is None:
        return None
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _few(attempts: Sequence[Metric]) -> bool:
    return sum(len(metric.samples) for metric in attempts) < FEWEST


def _resampled(attempts: Sequence[Metric], random: np.random.Generator) -> Array | None:
    """`RESAMPLES` values that this side could have had."""
    import numpy as np

    drawn = np.empty((len(attempts), RESAMPLES))
    for row, metric in enumerate(attempts):
        samples, statistic = np.asarray(metric.samples, dtype=np.float64), _statistic(metric.statistic)
        if statistic is None or samples.size == 0 or not (samples > 0).all():
            return None
        if not math.isclose(float(statistic(samples[None, :])[0]), metric.value or 0.0, rel_tol=1e-6):
            return None
        at_once = max(1, CHUNK // samples.size)
        for start in range(0, RESAMPLES, at_once):
            some = drawn[row, start : start + at_once]
            some[:] = statistic(samples[random.integers(0, samples.size, (some.size, samples.size))])
    which = random.integers(0, len(attempts), (len(attempts), RESAMPLES))
    return np.asarray(np.median(np.take_along_axis(drawn, which, axis=0), axis=0), dtype=np.float64)


def _statistic(words: str) -> Callable[[Array], Array] | None:
    """The statistic that a metric names, over the last axis; None when it cannot be repeated from samples."""
    import numpy as np

    if words.startswith(("median", "mean")):
        reduce = np.median if words.startswith("median") else np.mean
        return lambda samples: np.asarray(reduce(samples, axis=-1))
    if match := _PERCENTILE.match(words):
        level = float(match[1]) / 100
        return lambda samples: np.asarray(np.quantile(samples, level, axis=-1))
    return None
