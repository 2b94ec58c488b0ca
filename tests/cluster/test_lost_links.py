"""Ranks on several hosts whose link is cut in the middle of a generation: the true cause, in time, and nothing left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genqual.cases import Case
from genqual.devices.base import Placement
from genqual.engines.base import TokenBatch
from genqual.ranks import group_spec
from genqual.ranks.client import Generator
from genqual.ranks.deadlines import Deadlines
from genqual.ranks.errors import GroupLost
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.cluster.conftest import MakeHosts
from tests.cluster.hosts import Hosts
from tests.here import CPU
from tests.ranks.conftest import ROOT

pytestmark = pytest.mark.heavy  # ranks of two or four hosts on two cores

BATCH = TokenBatch.of([[3, 1, 4, 1, 5], [9, 2, 6]])
STEPS = 120
REACT_S = 20.0
"""Longest time beyond a call's deadline until its cause is told, and until nothing is left on any host."""

DEADLINES = Deadlines(base_s=12.0, step_s=0.05, first_s=60.0)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    one = Pool(1, leases=Leases(tmp_path / "leases"))
    yield one
    one.close_all()


def tensor_parallel(hosts: Hosts, logs: Path) -> group_spec.GroupPlan:
    """Two ranks of llama-tiny, one a host; their cores are this machine's."""
    ranks = len(hosts.addresses)
    placement = Placement(env=tuple({"OMP_NUM_THREADS": "1"} for _ in range(ranks)))
    return group_spec.plan(
        *(Case(CPU, "transformers-tp", "llama-tiny", "fp32", ranks, 1), logs),
        placement=placement,
        launcher="mpirun",
        launcher_arguments=hosts.mpirun,
        hosts=hosts.addresses,
        deadlines=DEADLINES,
    )


def lost_while(generator: Generator, disturb: Callable[[], None]) -> tuple[GroupLost, float]:
    """What generating without end tells after `disturb` was called in the middle of it, and after how many seconds."""
    generator.generate(BATCH, STEPS)
    at: list[float] = []

    def later() -> None:
        disturb()
        at.append(time.monotonic())

    timer = threading.Timer(1.5, later)
    timer.start()
    try:
        while True:
            generator.generate(BATCH, STEPS)
    except GroupLost as lost:
        return lost, time.monotonic() - at[0]
    finally:
        timer.join()


@pytest.mark.parametrize("number", [0, 1], ids=["first host", "second host"])
def test_a_cut_link_is_the_cause_and_nothing_is_left_on_any_side(
    make_hosts: MakeHosts, pool: Pool, tmp_path: Path, number: int
) -> None:
    hosts = make_hosts(2)
    generator = Generator(pool, tensor_parallel(hosts, tmp_path / "logs"))
    lost, took = lost_while(generator, lambda: hosts.cut(number))
    limit = DEADLINES.call("generate", rows=2, length=5, steps=STEPS) + REACT_S
    assert f"rank {number} cannot be reached any more" in lost.headline, lost.headline
    assert f"its host host{number}" in lost.headline, lost.headline
    assert took < limit, lost.headline
    assert hosts.wait_until_empty(limit - took) == {}, f"after {limit:.0f} s; {lost.headline}"
