"""Whether the hours of a host are alike: what launches of one hour share cannot be told from a change of the code.

docs/gate-theory.md, "Error rates", has the simulation that HOURS comes from.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, Literal

from genqual.gate.baseline_file import Launch

HOURS: Final = 0.12  # of the tolerance: the most that batches may differ beyond what their launches vary by

Series = Literal["z", "raw", "frozen", "floor", "frozen_floor"]


def apart(launches: Sequence[Launch], of: Series = "z") -> float:
    """The standard deviation of z, or of another number, between batches, relative, less what launches of one vary by.

    One-way analysis of variance, batches of any sizes; 0 where the batches differ no more than launches do.
    """
    batches: dict[int, list[float]] = {}
    for one in launches:
        batches.setdefault(one.batch, []).append(_value(one, of))
    parts, total = list(batches.values()), len(launches)
    if len(parts) < 2 or total == len(parts):
        return 0.0
    middle = statistics.fmean(_value(one, of) for one in launches)
    between = sum(len(part) * (statistics.fmean(part) - middle) ** 2 for part in parts) / (len(parts) - 1)
    within = sum(len(part) * statistics.pvariance(part) for part in parts) / (total - len(parts))
    size = (total - sum(len(part) ** 2 for part in parts) / total) / (len(parts) - 1)
    return math.sqrt(max(0.0, between - within) / size)


def _value(launch: Launch, of: Series) -> float:
    value = getattr(launch, of)
    if value is None:
        raise ValueError(f"a launch without {of} has no hour")
    return float(value)
