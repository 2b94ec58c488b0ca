"""Ranks on the cores or the card of a node, for a check that repeats one generation. Judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from genqual.cases import Case
from genqual.devices.base import Placement
from genqual.health.checks.base import Check, Node, unknown
from genqual.health.finding import Finding
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool

T = TypeVar("T")


@contextmanager
def group_on(node: Node, engine: str, model: str, *, ranks: int = 1) -> Iterator[Generator]:
    """A group in fp32 on the cores of `node`, shared out among its ranks, or on its card; ended afterwards."""
    share = max(1, len(node.cores) // ranks)
    if node.cards:
        placement, threads = node.cards[0].placement, 1
    else:
        cores = tuple(node.cores[rank * share : (rank + 1) * share] for rank in range(ranks))
        lease = tuple(f"cpu:{core}" for each in cores for core in each)
        placement, threads = Placement(env=tuple({} for _ in cores), cores=cores, lease=lease), share
    pool = Pool(1, progress=lambda text: None)
    try:
        yield Generator(
            pool,
            plan(Case(node.device, engine, model, "fp32", ranks, threads), node.work / "logs", placement=placement),
        )
    finally:
        pool.close_all()


def on_each_card(node: Node, work: Callable[[Node], T]) -> list[T | BaseException]:
    """What `work` gives, or raises, on each card alone, in the order of the cards; all cards work at the same time.

    Each card has a thread, which lives until its work is done: processes that it started end with it.
    """

    def told(one: Node) -> T | BaseException:
        try:
            return work(one)
        except (Exception, GroupLost) as error:  # noqa: BLE001  one card's error must not hide what the others say
            return error

    with ThreadPoolExecutor(len(node.cards)) as threads:
        return list(threads.map(told, node.each_card()))


def findings_on_each_card(check: Check, node: Node, run: Callable[[Node], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of `run` on each card. A card where it raises is UNKNOWN, and the others say what they found."""
    told = on_each_card(node, lambda one: list(run(one)))
    for card, found in zip(node.cards, told, strict=True):
        if isinstance(found, BaseException):
            yield unknown(check, card.entity, f"the check itself failed: {type(found).__name__}: {found}")
        else:
            yield from found
