"""Ranks on the cores of a node, for a check that repeats one generation. Judges nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from genqual.cases import Case
from genqual.devices.base import Placement
from genqual.health.checks.base import Node
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool


@contextmanager
def group_on(node: Node, engine: str, model: str, *, ranks: int = 1) -> Iterator[Generator]:
    """A group in fp32 on the cores of `node`, shared out among its ranks; ended afterwards."""
    share = max(1, len(node.cores) // ranks)
    cores = tuple(node.cores[rank * share : (rank + 1) * share] for rank in range(ranks))
    lease = tuple(f"cpu:{core}" for each in cores for core in each)
    placement = Placement(env=tuple({} for _ in cores), cores=cores, lease=lease)
    pool = Pool(1, progress=lambda text: None)
    try:
        yield Generator(
            pool, plan(Case(node.device, engine, model, "fp32", ranks, share), node.work / "logs", placement=placement)
        )
    finally:
        pool.close_all()
