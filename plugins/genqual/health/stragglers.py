"""Which core or device is slower than its siblings, by the same work done in turns. Pure: NumPy only; no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.9999
"""Of one interval: a fault-free node of eighty parts is called slow once in some hundred thousand runs."""

LEAST: Final = 0.02  # a part is named only where it is surely slower by this much: parts of one kind differ by less


@dataclass(frozen=True, slots=True)
class Standing:
    """One part beside its siblings: how much longer it takes (0.05: 5 %), and an interval that holds it."""

    entity: str
    slower: float
    low: float
    high: float

    @property
    def is_straggler(self) -> bool:
        return self.low > LEAST


def standings(seconds: Mapping[str, NDArray[np.float64]]) -> list[Standing]:
    """Each part against the median of its siblings of the same round; `seconds` (rounds,) by part, measured in turns.

    The interval is of the median ratio, distribution-free, by order statistics. Raises ValueError on fewer than two
    parts, on rounds of other numbers, and on fewer rounds than the confidence needs.
    """
    names = sorted(seconds)
    if len(names) < 2:
        raise ValueError(f"{len(names)} parts: a straggler needs siblings; judge it with --under-test node")
    table = np.stack([np.asarray(seconds[name], dtype=np.float64) for name in names])
    if not np.isfinite(table).all() or (table <= 0.0).any():
        raise ValueError("times must be finite and above zero")
    rank = _order(table.shape[1])
    found = []
    for index, name in enumerate(names):
        others = np.median(np.delete(table, index, axis=0), axis=0)
        ratios = np.sort(table[index] / others)
        found.append(
            Standing(name, float(np.median(ratios)) - 1.0, float(ratios[rank]) - 1.0, float(ratios[-1 - rank]) - 1.0)
        )
    return found


def _order(rounds: int) -> int:
    """The order statistic from each end whose interval holds the median with CONFIDENCE. Raises ValueError."""
    tail, below = (1.0 - CONFIDENCE) / 2.0, 0.0
    for rank in range(rounds // 2):
        below += math.comb(rounds, rank) * 0.5**rounds
        if below > tail:
            if rank == 0:
                break
            return rank - 1
    raise ValueError(f"{rounds} rounds are too few for an interval of {CONFIDENCE:.2%}; at least 15 are needed")
