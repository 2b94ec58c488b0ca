"""Which host's link, or which path between two hosts, is slower than its siblings. Pure: NumPy only; no clock.

All pairs of hosts send the same messages in turns. Links are compared within the same rounds of one run, never with a
number from elsewhere: what slows the whole network, or all hosts, names nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.health.stragglers import CONFIDENCE, Standing, standing_of

Pair = tuple[int, int]
"""Numbers of two hosts, the smaller one first."""

LEAST_HOSTS: Final = 3
"""Between two hosts there is one path, and nothing to compare it with."""

BLOCK: Final = 5
"""Rounds whose fastest messages make one comparison."""


@dataclass(frozen=True, slots=True)
class Links:
    """Every host and every path beside its siblings; `slower` is of the time that the same message takes."""

    hosts: tuple[Standing, ...]
    paths: tuple[Standing, ...]
    slow_paths: tuple[Standing, ...]  # that no slow host explains

    @property
    def slow_hosts(self) -> tuple[Standing, ...]:
        return tuple(one for one in self.hosts if one.is_straggler)

    @property
    def named(self) -> tuple[str, ...]:
        """Hosts, then paths, that are surely slower."""
        return tuple(one.entity for one in (*self.slow_hosts, *self.slow_paths))

    @property
    def false_alarm(self) -> float:
        """At most the probability that a run of links that are alike names any, where blocks are independent."""
        return (len(self.hosts) + len(self.paths)) * (1.0 - CONFIDENCE) / 2.0


def pairs(hosts: int) -> list[Pair]:
    """Every two of `hosts`, in the order that all parts of the check use."""
    return list(combinations(range(hosts), 2))


def compare(seconds: Mapping[Pair, NDArray[np.float64]], names: Mapping[int, str]) -> Links:
    """Judge `seconds` (rounds, 2) by pair, each way, measured in turns; `names` of hosts by number.

    Of every BLOCK rounds the fastest message each way counts: what else a host does can only keep a message waiting. A
    host's link is slow where the paths that it is part of take longer than those that it is not: in each block the
    median of the ones over the median of the others. A path is compared with the median of all others. Either is named
    where the interval of its median ratio over blocks is surely above `stragglers.LEAST`.
    Raises ValueError on fewer than three hosts, on missing pairs, on times that are not above zero, on few rounds.
    """
    order = pairs(len(names))
    if len(names) < LEAST_HOSTS:
        raise ValueError(f"{len(names)} hosts: a slow link needs at least {LEAST_HOSTS} to be told from the others")
    if set(seconds) != set(order):
        raise ValueError(f"pairs {sorted(seconds)}: {order} are wanted")
    table = np.stack([_fastest(np.asarray(seconds[pair], dtype=np.float64)) for pair in order])
    hosts = []
    for number in sorted(names):
        own = np.array([number in pair for pair in order])
        ratios = np.median(table[own], axis=0) / np.median(table[~own], axis=0)
        hosts.append(standing_of(names[number], ratios))
    paths = []
    for index, (one, other) in enumerate(order):
        ratios = table[index] / np.median(np.delete(table, index, axis=0), axis=0)
        paths.append(standing_of(f"{names[one]} - {names[other]}", ratios))
    slow = {number for number, standing in zip(sorted(names), hosts, strict=True) if standing.is_straggler}
    apart = [path for path, pair in zip(paths, order, strict=True) if path.is_straggler and not slow & set(pair)]
    return Links(tuple(hosts), tuple(paths), tuple(apart))


def _fastest(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rounds, 2) to (blocks,): the fastest message of each whole block, both ways together."""
    if not np.isfinite(seconds).all() or (seconds <= 0.0).any():
        raise ValueError("times must be finite and above zero")
    blocks = len(seconds) // BLOCK
    fastest: NDArray[np.float64] = seconds[: blocks * BLOCK].reshape(blocks, BLOCK, 2).min(axis=1).sum(axis=-1)
    return fastest
