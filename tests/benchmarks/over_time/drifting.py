"""How much occasions differ, with intervals, and which control cancels most of it. NumPy and scipy; measures nothing.

Intervals hold at 95 % where launches and occasions are normal. Few occasions make them wide, and they say so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genqual.gate.drift import OCCASION_S, estimated, prior

Array = NDArray[np.float64]
Launch = dict[str, Any]
LEVEL: Final = 0.95


def by_occasion(launches: Iterable[Launch]) -> list[list[Launch]]:
    """Launches less than a quarter of an hour apart are of one occasion, whichever file they are in; oldest first."""
    groups: list[list[Launch]] = []
    for one in sorted(launches, key=lambda launch: float(launch["at"])):
        if not groups or one["at"] - groups[-1][-1]["at"] > OCCASION_S:
            groups.append([])
        groups[-1].append(one)
    return groups


def between(groups: Sequence[Array]) -> tuple[float, tuple[float, float]]:
    """Standard deviation of occasions beyond what launches vary by, and its interval, from launches by occasion.

    One-way analysis of variance with a random effect; the interval is Williams's and Tukey's (Biometrika 49, 1962),
    with the mean size of unequal groups. Raises ValueError below two occasions, or without two launches of one.
    """
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    count, freedom = len(groups) - 1, int(sizes.sum()) - len(groups)
    if count < 1 or freedom < 1:
        raise ValueError(f"{len(groups)} occasions of {sizes.tolist()} launches: two occasions, one with two launches")
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom
    middle = float(np.concatenate(groups).mean())
    squares = sum(len(group) * (float(group.mean()) - middle) ** 2 for group in groups)
    size = float((sizes.sum() - (sizes**2).sum() / sizes.sum()) / count)
    tails = (1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0

    def bound(level: float) -> float:
        noise = count * within * float(stats.f.ppf(level, count, freedom))
        return math.sqrt(max(0.0, squares - noise) / (size * float(stats.chi2.ppf(level, count))))

    return math.sqrt(max(0.0, squares / count - within) / size), (bound(tails[1]), bound(tails[0]))


def steadier(ours: Array, other: Array) -> tuple[float, tuple[float, float]]:
    """Standard deviation of `ours` over that of `other`, means of the same occasions, and its interval.

    Pitman's and Morgan's (Biometrika 31, 1939): for a ratio k of the deviations, ours / k + other and ours / k - other
    are uncorrelated. The interval is every k that a test of that correlation leaves standing.
    """
    ratio = float(ours.std(ddof=1) / other.std(ddof=1))
    freedom = len(ours) - 2
    shared = float(np.corrcoef(ours, other)[0, 1])
    limit = float(stats.t.ppf((1.0 + LEVEL) / 2.0, freedom)) ** 2
    # With r the ratio over k, t^2 = (r - 1/r)^2 freedom / (4 (1 - shared^2)): solved for r, its two roots are inverse.
    step = math.sqrt(4.0 * (1.0 - shared**2) * limit / freedom)
    root = (step + math.sqrt(step**2 + 4.0)) / 2.0
    return ratio, (ratio / root, ratio * root)


def explained(ours: Array, by: Array) -> tuple[float, float, float]:
    """How far `by` tells `ours`, both means of the same occasions: correlation, slope, and what remains of ours.

    The last is the standard deviation of each occasion around the line through all others, over that of each around
    the mean of all others: above 1, the line predicts worse than the mean does.
    """
    slope = float(np.cov(ours, by)[0, 1] / by.var(ddof=1))
    around_line, around_mean = [], []
    for index in range(len(ours)):
        mine, its = np.delete(ours, index), np.delete(by, index)
        own = float(np.cov(mine, its)[0, 1] / its.var(ddof=1))
        around_line.append(float(ours[index] - mine.mean() - own * (by[index] - its.mean())))
        around_mean.append(float(ours[index] - mine.mean()))
    rest = math.sqrt(float(np.mean(np.square(around_line)) / np.mean(np.square(around_mean))))
    return float(np.corrcoef(ours, by)[0, 1]), slope, rest


def mean_change(changes: Array) -> tuple[float, float]:
    """The mean over occasions, and half of its interval by Student's t; nan of one occasion."""
    if len(changes) < 2:
        return float(changes.mean()), float("nan")
    wide = float(stats.t.ppf((1.0 + LEVEL) / 2.0, len(changes) - 1))
    return float(changes.mean()), wide * float(changes.std(ddof=1)) / math.sqrt(len(changes))


def with_prior(groups: Sequence[Array], tolerance: float = 0.05) -> tuple[float, float]:
    """What the gate makes of these occasions: drift as `rebase` would keep it, and what evidence counts with."""
    found = estimated([[[float(value) for value in group] for group in groups]], prior(tolerance, stepped=True))
    return found.sd, found.cautious
