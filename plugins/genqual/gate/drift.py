"""Drift: what launches of one occasion share and launches of another do not. Pure: the standard library only.

An occasion is a quarter of an hour or so of one host. Within it, the ratio to the reference step varies from launch to
launch; from one occasion to the next, its mean moves as well, and no number of launches of one occasion shows that.
Source of the model, of the prior and of its evidence: docs/evidence/gate-drift.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

OCCASION_S: Final = 900.0  # launches that lie further apart than this in time are of two occasions
_PRIOR: Final = {True: 0.12, False: 0.07}  # of a metric's own tolerance, by whether it has steps: 0.6 % of 5 %
PRIOR_FREEDOM: Final = 6.0  # how many occasions' worth of evidence the prior is
SURE: Final = 0.8  # how sure the drift is not to exceed what evidence counts with
_APART: Final = 3  # batches of an older baseline, whose times nobody kept: from so many on they were made apart

Builds = Sequence[Sequence[Sequence[float]]]
"""Builds of the code, each with its occasions, each with the log times of its launches."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How much occasions of one class differ. `sd` 0.012: by 1.2 %; `freedom`: how well that is known, prior included.

    `freedom` infinite: it is known exactly.
    """

    sd: float
    freedom: float = math.inf

    def __post_init__(self) -> None:
        if not (self.sd >= 0.0 and math.isfinite(self.sd) and self.freedom > 0.0):
            raise ValueError(f"drift {self.sd} with {self.freedom} degrees of freedom: neither is below 0")

    @property
    def cautious(self) -> float:
        """The standard deviation that drift exceeds with a chance of 20 % only: what evidence counts with."""
        if math.isinf(self.freedom):
            return self.sd
        return self.sd * math.sqrt(self.freedom / _chi_square(1.0 - SURE, self.freedom))


NONE: Final = Drift(0.0)  # builds that take turns in one run share the occasion


def estimated(builds: Builds, prior_sd: float) -> Drift:
    """What the occasions of each build differ by, beyond what their launches vary by; `prior_sd` where they are few.

    Occasions of two builds are never compared: what differs there may be the code.
    """
    squares, within = 0.0, 0
    for build in builds:
        for occasion in build:
            if len(occasion) > 1:
                squares += len(occasion) * statistics.pvariance(occasion)
                within += len(occasion) - 1
    noise = squares / within if within else 0.0
    total, freedom = 0.0, 0
    for build in builds:
        sizes = [len(occasion) for occasion in build if occasion]
        count = sum(sizes)
        if len(sizes) < 2:
            continue
        means = [statistics.fmean(occasion) for occasion in build if occasion]
        middle = math.fsum(size * mean for size, mean in zip(sizes, means, strict=True)) / count
        between = math.fsum(size * (mean - middle) ** 2 for size, mean in zip(sizes, means, strict=True))
        each = (count - sum(size**2 for size in sizes) / count) / (len(sizes) - 1)
        total += (between - noise * (len(sizes) - 1)) / each
        freedom += len(sizes) - 1
    known = PRIOR_FREEDOM * prior_sd**2 + max(0.0, total)
    return Drift(math.sqrt(known / (PRIOR_FREEDOM + freedom)), PRIOR_FREEDOM + freedom)


def prior(tolerance: float, *, stepped: bool) -> float:
    """The standard deviation between occasions of a metric in a class that has none to tell it (ten series, three
    hosts; load time: two series), from the metric's own tolerance and whether it is measured in steps.
    """
    return _PRIOR[stepped] * tolerance


def occasions_of(batches: Sequence[int], known: Sequence[int] | None) -> list[int]:
    """The occasion of each launch from its batch. `known`: the occasion of each batch, None in older baselines.

    Two batches were 20 s apart by default, and are one occasion; who made three or more made them apart.
    """
    if known is not None:
        return [known[batch] for batch in batches]
    return list(batches) if len(set(batches)) >= _APART else [0] * len(batches)


def by_time(ends: Iterable[tuple[float, float]]) -> list[int]:
    """The occasion of each batch in the order of making, from when it began and ended, seconds of one clock.

    A clock that went back tells nothing about the time between, and the batch is taken for one of the same occasion.
    """
    found: list[int] = []
    last = None
    for begin, end in ends:
        fresh = last is not None and begin - last > OCCASION_S
        found.append((found[-1] + fresh) if found else 0)
        last = end
    return found


def grouped(values: Sequence[float], occasions: Sequence[int]) -> list[list[float]]:
    """The values of each occasion, in the order in which occasions first appear."""
    found: dict[int, list[float]] = {}
    for value, occasion in zip(values, occasions, strict=True):
        found.setdefault(occasion, []).append(value)
    return list(found.values())


def _chi_square(level: float, freedom: float) -> float:
    """The quantile, by Wilson and Hilferty (PNAS 17, 1931): within 2 % from four degrees on at 5 %."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + statistics.NormalDist().inv_cdf(level) * math.sqrt(spread)) ** 3
