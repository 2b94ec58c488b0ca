"""Groups that are begun before they are wanted: real processes that import, wait, and move to cores of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from genqual.devices.base import Placement
from genqual.errors import EngineFailed
from genqual.ranks import processes
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.group import RankGroup
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.ranks.conftest import PlanOf
from tests.ranks.test_end import PYTEST
from tests.ranks.test_group import answers

CORES = sorted(os.sched_getaffinity(0))
MINE, OTHER = CORES[0], CORES[-1]

WAITING = """
import time
from pathlib import Path
from genqual.ranks.group import RankGroup
from tests.ranks.conftest import stand_in_plan

def test_wait():
    here = Path(__file__).parent
    group = RankGroup.begin(stand_in_plan(here / "logs"), [])
    while not group.reported:
        time.sleep(0.05)
    (here / "mark.part").write_text(group.mark)
    (here / "mark.part").rename(here / "mark")
    time.sleep(600)
"""


def until(what: Callable[[], object], within_s: float = 30) -> None:
    limit = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.05)  # for another process, which gives no other sign


@pytest.fixture
def plan(plan_of: PlanOf) -> GroupPlan:
    cores = Placement(env=({}, {}), cores=((MINE,), (OTHER,)))
    return plan_of(implementation="tests.ranks.early:Early", placement=cores)


def test_ranks_import_on_the_cores_they_were_lent_and_then_move_every_thread(plan: GroupPlan) -> None:
    begun = RankGroup.begin(plan, [OTHER])
    places = [begun.logs / f"imported{rank}" for rank in range(2)]
    until(lambda: begun.reported)
    until(lambda: all(place.exists() and place.read_text() for place in places))
    assert [json.loads(place.read_text()) for place in places] == [[OTHER], [OTHER]]
    group = RankGroup.start(plan, begun=begun)
    try:
        assert group is begun
        assert [reply.value["cores"] for reply in group.call("ping", deadline_s=5)] == [[MINE], [OTHER]]
        threads = [int(task.name) for task in Path(f"/proc/{group.pids[0]}/task").iterdir()]
        assert len(threads) > 1, "the thread that importing left behind is not there"
        assert {tuple(os.sched_getaffinity(thread)) for thread in threads} == {(MINE,)}
    finally:
        group.close()
    assert processes.members(group.mark) == []


def test_what_was_begun_and_never_wanted_leaves_nothing(plan: GroupPlan) -> None:
    begun = RankGroup.begin(plan, [])
    until(lambda: len(processes.members(begun.mark)) == 3)
    begun.kill()
    begun.kill()
    assert processes.members(begun.mark) == []
    assert not begun.reported


def test_what_cannot_be_imported_is_told_as_it_is_without(plan: GroupPlan) -> None:
    broken = replace(plan, implementation="tests.ranks.no_such_module:Engine")
    told = []
    for begun in (None, RankGroup.begin(broken, [OTHER])):
        with pytest.raises(EngineFailed) as caught:
            RankGroup.start(broken, begun=begun)
        told.append(str(caught.value).partition(" (`load`, rank ")[0])  # either rank may be the first to say so
    assert told[0] == told[1]
    assert "No module named 'tests.ranks.no_such_module'" in told[0]


def test_a_rank_that_dies_while_it_waits_is_told_by_its_cause(plan: GroupPlan) -> None:
    begun = RankGroup.begin(replace(plan, case=replace(plan.case, ranks=1), placement=Placement(env=({},))), [])
    until(lambda: begun.reported)
    (rank,) = processes.members(begun.mark)
    rank.kill()
    until(lambda: processes.members(begun.mark) == [])  # not waited for: its exit code is the group's to read
    with pytest.raises(GroupLost, match=r"rank 0 was killed by SIGKILL"):
        RankGroup.start(begun.plan, begun=begun)
    assert processes.members(begun.mark) == []


def test_a_generator_goes_on_with_what_its_pool_began(tmp_path: Path, plan: GroupPlan) -> None:
    pool = Pool(2, leases=Leases(tmp_path))
    pool.begin(plan, Placement(env=({},), cores=((OTHER,),), lease=("cpu:9",)))
    assert pool.leases.held == {"cpu:9"}
    begun = pool._begun
    assert begun is not None
    generator = Generator(pool, plan)
    try:
        assert generator.group is begun
        assert answers(generator)
        assert pool.leases.held == frozenset()
    finally:
        pool.close_all()
    assert processes.members(begun.mark) == []


def test_nothing_imports_beside_a_measurement(tmp_path: Path, plan: GroupPlan, plan_of: PlanOf) -> None:
    pool = Pool(2, leases=Leases(tmp_path))
    pool.begin(plan, Placement(env=({},), cores=((OTHER,),), lease=("cpu:9",)))
    begun = pool._begun
    assert begun is not None
    try:
        with Generator(pool, plan_of(ranks=1)).undisturbed():
            assert processes.members(begun.mark) == []
            assert "cpu:9" not in pool.leases.held
    finally:
        pool.close_all()


def test_no_rank_that_waits_is_left_when_pytest_is_killed(tmp_path: Path) -> None:
    (tmp_path / "test_waiting.py").write_text(WAITING)
    command = [*PYTEST, "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    with (tmp_path / "out").open("w") as out:
        run = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
    try:
        until(lambda: (tmp_path / "mark").exists() or run.poll() is not None, 60)
        mark = (tmp_path / "mark").read_text()
        assert len(processes.members(mark)) == 3
        run.send_signal(signal.SIGKILL)
        run.wait()
        until(lambda: processes.members(mark) == [], 15)
    finally:
        run.kill()
        run.wait()
