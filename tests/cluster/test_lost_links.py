"""Ranks on several hosts whose link is cut in the middle of a generation: the true cause, in time, and nothing left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from genqual.ranks.protocol import SILENT_S
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
LIMIT_S = DEADLINES.call("generate", rows=2, length=5, steps=STEPS) + REACT_S


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    one = Pool(1, leases=Leases(tmp_path / "leases"))
    yield one
    one.close_all()


def tensor_parallel(hosts: Hosts, logs: Path) -> group_spec.GroupPlan:
    return plan_of("transformers-tp", hosts, logs)


def plan_of(engine: str, hosts: Hosts, logs: Path) -> group_spec.GroupPlan:
    """llama-tiny, one rank a host; their cores are this machine's."""
    ranks = len(hosts.addresses)
    placement = Placement(env=({"OMP_NUM_THREADS": "1"},))
    return group_spec.plan(
        *(Case(CPU, engine, "llama-tiny", "fp32", ranks, 1), logs),
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
        at.append(time.monotonic())
        disturb()

    timer = threading.Timer(1.5, later)
    timer.start()
    try:
        while not at or time.monotonic() < at[0] + LIMIT_S:
            generator.generate(BATCH, STEPS)
        pytest.fail("the group lives on")
    except GroupLost as lost:
        return lost, time.monotonic() - at[0]
    finally:
        timer.join()


@pytest.mark.parametrize(
    ("number", "base_s"),
    [
        pytest.param(0, DEADLINES.base_s, id="first host"),
        pytest.param(1, DEADLINES.base_s, id="second host"),
        pytest.param(1, 2.0, id="deadline sooner than the kernel notices"),
    ],
)
def test_a_cut_link_is_the_cause_and_nothing_is_left_on_any_side(
    make_hosts: MakeHosts, pool: Pool, tmp_path: Path, number: int, base_s: float
) -> None:
    hosts = make_hosts(2)
    plan = tensor_parallel(hosts, tmp_path / "logs")
    generator = Generator(pool, replace(plan, deadlines=replace(DEADLINES, base_s=base_s)))
    lost, took = lost_while(generator, lambda: hosts.cut(number))
    assert f"rank {number} cannot be reached any more" in lost.headline, lost.headline
    assert f"its host host{number}" in lost.headline, lost.headline
    limit = LIMIT_S - DEADLINES.base_s + base_s
    assert took < limit, lost.headline
    assert hosts.wait_until_empty(limit - took) == {}, f"after {limit:.0f} s; {lost.headline}"


def test_a_link_cut_while_the_ranks_wait_is_the_cause_that_the_next_call_tells(
    make_hosts: MakeHosts, pool: Pool, tmp_path: Path
) -> None:
    hosts = make_hosts(2)
    generator = Generator(pool, tensor_parallel(hosts, tmp_path / "logs"))
    generator.generate(BATCH, 4)
    hosts.cut(1)
    assert hosts.wait_until_empty(2 * SILENT_S + REACT_S) == {}, "nobody asked, and nothing is left on either host"
    with pytest.raises(GroupLost) as caught:
        generator.generate(BATCH, 4)
    assert "rank 1 cannot be reached any more" in caught.value.headline, caught.value.headline
    assert "between calls" in caught.value.headline, caught.value.headline


def test_a_path_cut_between_two_hosts_that_pytest_reaches_is_told_after_the_deadline(
    make_hosts: MakeHosts, pool: Pool, tmp_path: Path
) -> None:
    hosts = make_hosts(2)
    generator = Generator(pool, tensor_parallel(hosts, tmp_path / "logs"))
    lost, took = lost_while(generator, lambda: hosts.part(0, 1))
    assert "ranks 0, 1 gave no answer" in lost.headline, lost.headline
    assert "a link between hosts is cut" in lost.headline, lost.headline
    assert took < LIMIT_S, lost.headline
    assert hosts.wait_until_empty(LIMIT_S - took) == {}, f"after {LIMIT_S:.0f} s; {lost.headline}"


def test_zero_on_four_hosts_loses_one_of_them_by_the_true_cause(
    make_hosts: MakeHosts, pool: Pool, tmp_path: Path
) -> None:
    hosts = make_hosts(4)
    generator = Generator(pool, plan_of("deepspeed-zero", hosts, tmp_path / "logs"))
    lost, took = lost_while(generator, lambda: hosts.cut(2))
    assert "rank 2 cannot be reached any more (its host host2 answers nothing" in lost.headline, lost.headline
    assert took < LIMIT_S, lost.headline
    assert hosts.wait_until_empty(LIMIT_S - took) == {}, f"after {LIMIT_S:.0f} s; {lost.headline}"
