"""Messages between ranks arrive to the bit, and one wrong bit of one rank is told of with its way and its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genqual.devices.base import Placement
from genqual.errors import BadInput
from genqual.health.link_check import LinkReport, link_plan
from genqual.health.links import pairs
from genqual.ranks.client import Generator
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool

EXCHANGE = "genqual.health.links_in_rank:exchange"

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no room for two ranks")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    """Three ranks of this host, which need no launcher of several."""
    folder = tmp_path_factory.mktemp("links")
    pool = Pool(1, leases=Leases(folder / "leases"))
    plan = link_plan(("a", "b", "c"), folder, "auto")
    yield Generator(pool, replace(plan, hosts=(), placement=Placement(env=plan.placement.env * 3)))
    pool.close_all()


def test_each_message_is_timed_where_it_arrives_and_none_is_wrong(ranks: Generator) -> None:
    replies = ranks.invoke(EXCHANGE, {"seed": 3, "rounds": 4, "count": 1000})
    assert [reply.value["wrong_messages"] for reply in replies] == [0, 0, 0]
    for reply in replies:
        timed = reply.arrays["seconds"]
        assert timed.shape == (4, 3, 2)
        expected = np.array([[pair[1] == reply.rank, pair[0] == reply.rank] for pair in pairs(3)])
        assert ((timed > 0) == expected).all(), "the first way arrives at the second of a pair"


def test_a_wrong_bit_is_told_with_its_way_and_its_place(ranks: Generator) -> None:
    with ranks.fault("genqual.faults.injectors.messages:flipped_bit", on_rank=1, bit=5):
        replies = ranks.invoke(EXCHANGE, {"seed": 3, "rounds": 10, "count": 1000})
    assert [reply.value["wrong_messages"] for reply in replies] == [10, 0, 10], "what rank 1 sent, to each other rank"
    said = replies[2].value["wrong"]
    assert len(said) == 8, "the first eight are told"
    assert "rank 1 to rank 2, round 0: 1 of 1000 values are wrong; the first, at 7, is " in said[0]
    assert ranks.invoke(EXCHANGE, {"seed": 3, "rounds": 1, "count": 1000})[2].value["wrong_messages"] == 0


def test_a_rate_is_of_the_usual_message() -> None:
    seconds = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 1.0]])
    assert LinkReport({0: "a", 1: "b"}, 125_000_000, {(0, 1): seconds}, (), 0).gbit_s((0, 1)) == 8.0
    assert LinkReport({0: "a", 1: "b"}, 1, {(0, 1): seconds}, (), 0).links is None, "nothing to compare with"


def test_one_host_has_no_link(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a link needs two hosts"):
        link_plan(("a",), tmp_path, "mpirun")
