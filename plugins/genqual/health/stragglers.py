"""Which core, device or rank is slower than its siblings, by the same work. Pure: NumPy only; no clock.

Always in pairs: a part against its siblings in the same round or the same step, never a mean against a mean.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.9999
"""Of one interval: a fault-free node of eighty parts is called slow once in some hundred thousand runs."""

LEAST: Final = 0.02  # a part is named only where it is surely slower by this much: parts of one kind differ by less

LEAST_RANK: Final = 0.01
"""The same of a rank that changes places: no core is in it. Fault-free ranks read at most 0.8 % in 14 quiet runs."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One part beside its siblings: how much longer it takes (0.05: 5 %), and an interval that holds it."""

    entity: str
    slower: float
    low: float
    high: float
    least: float = LEAST

    @property
    def is_straggler(self) -> bool:
        return self.low > self.least

    @property
    def is_open(self) -> bool:
        """The interval holds both what is named and what is not: more of the same would tell."""
        return self.low <= self.least < self.high


def standings(seconds: Mapping[str, NDArray[np.float64]]) -> list[Standing]:
    """Each part against the median of its siblings of the same round; `seconds` (rounds,) by part, measured in turns.

    The interval is of the median ratio, distribution-free, by order statistics. Raises ValueError on fewer than two
    parts, on rounds of other numbers, and on fewer rounds than the confidence needs.
    """
    names = sorted(seconds)
    table = _checked(names, seconds)
    _order(table.shape[1])  # before anything is computed: too few rounds say nothing
    return [standing_of(name, ratios) for name, ratios in zip(names, _ratios(table), strict=True)]


def rank_standings(seconds: Sequence[NDArray[np.float64]]) -> tuple[list[Standing], list[Standing]]:
    """Ranks and places (cores, cards), each beside its siblings; `seconds` (runs, steps) by rank, who change places.

    In run i rank r stood in place r + i, modulo their number: `steps_in_rank.step_times`. In as many runs as there are
    ranks each rank meets each place once. Over such a block the mean of a rank's log ratios is free of the places, and
    that of a place is free of the ranks; what changes slowly cancels too. The interval is over blocks, by Wilcoxon's
    signed ranks: parts that are alike are exchangeable, so their log ratios lie evenly to both sides. A run gives one
    ratio, the median of its steps': they share what disturbs the host then, and are no independent evidence. Raises
    ValueError as `standings` does, and where the runs are no whole blocks.
    """
    names = [f"{number}" for number in range(len(seconds))]
    table = _checked(names, dict(zip(names, seconds, strict=True)))
    ranks, runs = table.shape[:2]
    if table.ndim != 3 or runs % ranks:
        raise ValueError(f"seconds of shape {table.shape[1:]}: (runs, steps), runs in multiples of {ranks}, are wanted")
    _signed_ranks(runs // ranks)
    logs = np.log(np.median(_ratios(table), axis=-1)).reshape(ranks, runs // ranks, ranks)  # rank, block, run of it
    turn = np.arange(ranks)
    by_place = np.stack([logs[(place - turn) % ranks, :, turn] for place in range(ranks)])  # place, run of it, block
    return (
        [replace(_even_standing(f"rank {rank}", one.mean(axis=-1)), least=LEAST_RANK) for rank, one in enumerate(logs)],
        [_even_standing(f"place {place}", one.mean(axis=0)) for place, one in enumerate(by_place)],
    )


def _checked(names: Sequence[str], seconds: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    if len(names) < 2:
        raise ValueError(f"{len(names)} parts: a straggler needs siblings; judge it with --under-test node")
    table = np.stack([np.asarray(seconds[name], dtype=np.float64) for name in names])
    if not np.isfinite(table).all() or (table <= 0.0).any():
        raise ValueError("times must be finite and above zero")
    return table


def _ratios(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each part (first axis) to the median of the others in the same place."""
    return np.stack([one / np.median(np.delete(table, index, axis=0), axis=0) for index, one in enumerate(table)])


def standing_of(name: str, ratios: NDArray[np.float64]) -> Standing:
    """The median of `ratios` (rounds,), each to the siblings of its round. Raises ValueError on too few rounds."""
    rank, ordered = _order(len(ratios)), np.sort(ratios)
    return Standing(name, float(np.median(ordered)) - 1.0, float(ordered[rank]) - 1.0, float(ordered[-1 - rank]) - 1.0)


def _even_standing(name: str, logs: NDArray[np.float64]) -> Standing:
    """The centre of `logs` (blocks,), which lie evenly around it: the median of all means of two (Hodges-Lehmann)."""
    rank = _signed_ranks(len(logs))
    first, second = np.triu_indices(len(logs))
    means = np.sort((logs[first] + logs[second]) / 2.0)
    return Standing(name, *(math.expm1(one) for one in (np.median(means), means[rank], means[-1 - rank])))


@functools.cache
def _signed_ranks(blocks: int) -> int:
    """The order statistic of all means of two, from each end, whose interval holds the centre with CONFIDENCE.

    Exact: of the 2 ** blocks signs, how many give each sum of ranks. Raises ValueError on too few blocks.
    """
    chances = np.ones(1)
    for number in range(1, blocks + 1):
        chances = (np.pad(chances, (0, number)) + np.pad(chances, (number, 0))) / 2.0
    return order_of(chances, f"{blocks} blocks are too few for an interval of {CONFIDENCE:.2%}; at least 15 are needed")


def order_of(chances: NDArray[np.float64], too_few: str) -> int:
    """The order statistic from each end that leaves at most half of what CONFIDENCE does not hold outside.

    `chances` are those of each number of statistics below the true one. Raises ValueError with `too_few`.
    """
    at_most = int((np.cumsum(chances) <= (1.0 - CONFIDENCE) / 2.0).sum())
    if at_most == 0:
        raise ValueError(too_few)
    return at_most - 1


def _order(rounds: int) -> int:
    """The order statistic from each end whose interval holds the median with CONFIDENCE. Raises ValueError."""
    tail, below = (1.0 - CONFIDENCE) / 2.0, 0.0
    for rank in range(rounds // 2):
        below += math.comb(rounds, rank) / (1 << rounds)  # of integers: a float holds no 2 ** 1024
        if below > tail:
            if rank == 0:
                break
            return rank - 1
    raise ValueError(f"{rounds} rounds are too few for an interval of {CONFIDENCE:.2%}; at least 15 are needed")
