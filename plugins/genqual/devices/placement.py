"""Which CPUs each rank gets. Pure: given threads and what is busy, no file is read and nothing is bound."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from genqual.devices.topology import Thread

Cores: TypeAlias = tuple[tuple[int, ...], ...]


def first_threads(threads: Collection[Thread]) -> list[Thread]:
    """One thread for each physical core among `threads`, the lowest numbered."""
    cores: dict[int, Thread] = {}
    for thread in sorted(threads, key=lambda t: t.cpu):
        cores.setdefault(thread.core, thread)
    return list(cores.values())


def divide(threads: Collection[Thread], ranks: int) -> int:
    """CPUs for each of `ranks` ranks when all of the host is to be used; 0 when there are more ranks than threads.

    Whole cores, hyperthreads only when ranks outnumber cores. With at least a rank for each NUMA node the share is
    the largest that lets no rank cross nodes; with fewer ranks than nodes each gets its even part of the host.
    """
    cores = first_threads(threads)
    pool = cores if len(cores) >= ranks else list(threads)
    nodes = [sum(thread.node == node for thread in pool) for node in {thread.node for thread in pool}]
    even = len(pool) // ranks
    if ranks < len(nodes):
        return even
    return max((share for share in range(1, even + 1) if sum(size // share for size in nodes) >= ranks), default=0)


def assign(threads: Collection[Thread], ranks: int, per_rank: int, busy: Collection[int] = ()) -> Cores:
    """Disjoint CPUs for `ranks` ranks of `per_rank` each. Raises ValueError when `threads` are too few.

    In this order of weight: cores of which no thread is `busy`; physical cores before hyperthreads; a rank within one
    NUMA node, else within one socket; neighbouring CPUs; nodes with little that is busy.
    """
    need = ranks * per_rank
    if need > len(threads) or need < 1:
        raise ValueError(f"{ranks} ranks of {per_rank} CPUs on {len(threads)} CPUs")
    taken = {thread.core for thread in threads if not set(thread.siblings).isdisjoint(busy)}
    quiet = [thread for thread in threads if thread.core not in taken]
    pools = (first_threads(quiet), quiet, first_threads(threads), threads)
    pool = next(pool for pool in pools if len(pool) >= need)
    return _Filling(threads, pool, taken).fill(ranks, per_rank)


class _Filling:
    """Greedy: as many ranks as fit within nodes, then within sockets, then anywhere."""

    def __init__(self, threads: Collection[Thread], pool: Collection[Thread], taken: Collection[int]) -> None:
        firsts = {thread.cpu for thread in first_threads(threads)}
        self._order = sorted(threads, key=lambda t: (t.cpu not in firsts, t.package, t.node, t.cpu))
        self._left = {thread.cpu for thread in pool}
        self._taken = taken
        self._found: list[tuple[int, ...]] = []

    def fill(self, ranks: int, per_rank: int) -> Cores:
        levels: tuple[Callable[[Thread], int], ...] = (lambda t: t.node, lambda t: t.package, lambda t: 0)
        for level in levels:
            for domain in self._domains(level):
                while len(self._found) < ranks and self._take(domain, per_rank):
                    pass
        return tuple(self._found)

    def _domains(self, level: Callable[[Thread], int]) -> list[list[Thread]]:
        """The threads of each domain in order of use, the quietest domain first."""
        domains: dict[int, list[Thread]] = {}
        for thread in self._order:
            domains.setdefault(level(thread), []).append(thread)
        return [domains[key] for key in sorted(domains, key=lambda k: (self._busy(domains[k]), k))]

    def _busy(self, threads: Sequence[Thread]) -> int:
        return sum(thread.core in self._taken for thread in threads)

    def _take(self, domain: list[Thread], count: int) -> bool:
        """Move `count` threads of `domain` to a new rank: neighbours if there are, else the first; False: too few."""
        left = [(place, thread) for place, thread in enumerate(domain) if thread.cpu in self._left]
        windows = [left[start : start + count] for start in range(len(left) - count + 1)]
        if not windows:
            return False
        best = min(windows, key=lambda w: (self._busy([t for _, t in w]), w[-1][0] - w[0][0] >= count, w[0][0]))
        chosen = tuple(thread.cpu for _, thread in best)
        self._left.difference_update(chosen)
        self._found.append(chosen)
        return True
