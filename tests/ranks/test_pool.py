"""Which groups live, and who holds their cores and cards. No processes: groups are stand-ins here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genqual.devices.base import Placement
from genqual.errors import BadInput, EngineFailed, OutOfMemory, Unsupported
from genqual.ranks.errors import GroupLost
from genqual.ranks.group import RankGroup
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.ranks.conftest import stand_in_plan

FAILS: list[BaseException] = []  # what loading raises now, whatever the plan


class FakeGroup:
    """Remembers that it was started and closed."""

    def __init__(self, plan: GroupPlan, events: list[str]) -> None:
        self.plan, self.events, self.alive, self.reported = plan, events, True, False

    def kill(self) -> None:
        self.events.append(f"kill {self.plan.case.model}")

    def close(self) -> None:
        self.alive = False
        self.events.append(f"close {self.plan.case.model}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def begin(plan: GroupPlan, cores: Sequence[int], progress: Any = None) -> FakeGroup:
        found.append(f"begin {plan.case.model} on {list(cores)}")
        return FakeGroup(plan, found)

    def start(plan: GroupPlan, progress: Any = None, begun: FakeGroup | None = None) -> FakeGroup:
        found.append(f"{'go on with' if begun else 'start'} {plan.case.model}")
        if plan.options.get("lost"):
            raise GroupLost("lost at start", None)
        if FAILS:
            raise FAILS[0]
        if plan.options.get("unsupported"):
            raise Unsupported("no kernels here")
        return FakeGroup(plan, found)

    monkeypatch.setattr(RankGroup, "start", start)
    monkeypatch.setattr(RankGroup, "begin", begin)
    return found


def plan(logs: Path, name: str, *lease: str, **changes: Any) -> GroupPlan:
    base = stand_in_plan(logs, ranks=1, **changes)
    return replace(base, case=replace(base.case, model=name), placement=Placement(env=({},), lease=lease))


@pytest.fixture
def pool(tmp_path: Path, events: list[str]) -> Pool:
    return Pool(2, leases=Leases(tmp_path))


def test_the_least_recently_used_group_makes_room(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    a, b, c = (plan(tmp_path, name) for name in "abc")
    first = pool.get(a)
    pool.get(b)
    assert pool.get(a) is first
    pool.get(c)
    assert events == ["start a", "start b", "close b", "start c"]
    assert pool.get(a) is first
    pool.close_all()
    pool.close_all()
    assert sorted(events[-2:]) == ["close a", "close c"]


def test_logs_and_deadlines_do_not_make_another_group_but_options_do(tmp_path: Path) -> None:
    a = plan(tmp_path, "a")
    assert replace(a, logs=tmp_path / "else").key == a.key
    assert replace(a, options={"compile": True}).key != a.key
    assert replace(a, placement=Placement(env=({"X": "1"},))).key != a.key
    assert replace(a, launcher="mpirun").key != a.key


def test_a_lost_group_is_replaced(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    a = plan(tmp_path, "a")
    first = pool.get(a)
    first.alive = False  # type: ignore[misc]
    assert pool.get(a) is not first
    pool.drop(a)
    pool.drop(a)
    assert events == ["start a", "close a", "start a", "close a"]


def test_an_exclusive_device_is_leased_for_the_life_of_its_group(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    cards = plan(tmp_path, "a", "card0", "card1", exclusive=True)
    others = Leases(tmp_path)
    pool.get(cards)
    assert not others.take(["card0"], wait_s=0)
    # A second model on one of these cards: the first must leave, although the pool has room.
    pool.get(plan(tmp_path, "b", "card1", exclusive=True))
    assert events == ["start a", "close a", "start b"]
    assert others.take(["card0"], wait_s=0)
    others.release(["card0"])
    pool.close_all()
    assert pool.leases.held == frozenset()


def test_shared_cores_are_leased_only_while_computing(pool: Pool, tmp_path: Path) -> None:
    one = plan(tmp_path, "a", "core0", "core1")
    others = Leases(tmp_path)
    with pool.computing(one):
        assert not others.take(["core1"], wait_s=0)
        with pool.computing(one):
            pool.get(one)
    assert pool.leases.held == frozenset()
    assert others.take(["core0", "core1"], wait_s=0)
    others.release(["core0", "core1"])
    pool.close_all()


def test_a_start_that_fails_leaves_no_lease(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(GroupLost):
        pool.get(plan(tmp_path, "a", "card0", exclusive=True, options={"lost": True}))
    assert pool.leases.held == frozenset()


def test_waiting_gives_up_cards_first(
    pool: Pool, tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.get(plan(tmp_path, "a", "card0", exclusive=True))
    other_run = Leases(tmp_path)
    assert other_run.take(["card1"])
    held_while_waiting: list[frozenset[str]] = []
    take = Leases.take

    def watched(self: Leases, names: Any, *, wait_s: float = 1.0) -> bool:
        if wait_s and not self.held >= set(names):
            held_while_waiting.append(self.held)
            other_run.release(["card1"])
        return take(self, names, wait_s=wait_s)

    monkeypatch.setattr(Leases, "take", watched)
    pool.get(plan(tmp_path, "b", "card1", exclusive=True))
    assert held_while_waiting == [frozenset()]
    assert events == ["start a", "close a", "start b"]
    pool.close_all()


def test_a_nested_block_must_not_want_more(pool: Pool, tmp_path: Path) -> None:
    a, b = plan(tmp_path, "a", "core0"), plan(tmp_path, "b", "core1")
    with pool.computing(a), pytest.raises(RuntimeError, match=r"needs \['core1'\] while \['core0'\] are held"):
        pool.get(b)
    with pool.computing(a, b):
        pool.get(b)
    pool.close_all()


def test_a_pool_has_room_for_one_at_least() -> None:
    with pytest.raises(BadInput, match="pool of 0"):
        Pool(0)


def test_what_cannot_run_here_is_asked_once(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    cannot = plan(tmp_path, "a", options={"unsupported": True})
    for _ in range(2):
        with pytest.raises(Unsupported, match="no kernels here"):
            pool.get(cannot)
    assert events == ["start a"]
    pool.get(plan(tmp_path, "a"))  # another plan of the same case is another question
    assert events == ["start a", "start a"]


@pytest.mark.parametrize(
    "error", [EngineFailed("torn"), BadInput("no model"), OutOfMemory("too large"), GroupLost("killed", None)]
)
def test_what_cannot_load_is_tried_once(
    error: BaseException, pool: Pool, tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FAILS", [error])
    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            pool.get(plan(tmp_path, "a"))
        assert caught.value is error
    pool.begin(plan(tmp_path, "a"), SPARE)
    assert events == ["start a"], "no new process"
    monkeypatch.setitem(globals(), "FAILS", [])
    pool.get(plan(tmp_path, "b"))
    assert events == ["start a", "start b"], "another case is another question"
    pool.close_all()


def test_what_has_loaded_before_is_tried_again(
    pool: Pool, tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh launches of the gate: what failed once may be an accident."""
    a = plan(tmp_path, "a")
    pool.get(a)
    pool.drop(a)
    monkeypatch.setitem(globals(), "FAILS", [EngineFailed("an accident")])
    for _ in range(2):
        with pytest.raises(EngineFailed):
            pool.get(a)
    monkeypatch.setitem(globals(), "FAILS", [])
    assert pool.get(a).alive
    assert events == ["start a", "close a", "start a", "start a", "start a"]
    pool.close_all()


SPARE = Placement(env=({},), cores=((1,),), lease=("cpu:1",))


def test_what_was_begun_is_gone_on_with_and_gives_its_cores_back(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    a, b = plan(tmp_path, "a"), plan(tmp_path, "b")
    pool.begin(a, SPARE)
    pool.begin(b, SPARE)  # one at a time
    assert pool.leases.held == {"cpu:1"}
    pool.get(b)  # another group that is wanted in between
    assert pool.leases.held == {"cpu:1"}
    pool.get(a)
    pool.get(a)
    assert events == ["begin a on [1]", "start b", "go on with a"]
    assert pool.leases.held == frozenset()
    pool.drop(a)
    pool.get(a)
    assert events[-1] == "start a"
    pool.close_all()


def test_cores_are_given_back_as_soon_as_nothing_is_imported(pool: Pool, tmp_path: Path) -> None:
    pool.begin(plan(tmp_path, "a"), SPARE)
    b = plan(tmp_path, "b")
    pool.get(b)
    assert not Leases(tmp_path).take(SPARE.lease, wait_s=0)
    assert pool._begun is not None
    pool._begun.reported = True  # type: ignore[misc]
    pool.get(b)
    assert Leases(tmp_path).take(SPARE.lease, wait_s=0)
    pool.close_all()


def test_nothing_is_begun_where_it_would_disturb_or_help_nobody(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    other_run = Leases(tmp_path)
    assert other_run.take(SPARE.lease)
    pool.begin(plan(tmp_path, "a"), SPARE)
    other_run.release(SPARE.lease)
    with pool.computing(plan(tmp_path, "b", "cpu:1")):
        pool.begin(plan(tmp_path, "a"), SPARE)
    pool.begin(plan(tmp_path, "a", "card0", exclusive=True), SPARE)
    assert events == []
    live, cannot = plan(tmp_path, "a"), plan(tmp_path, "b", options={"unsupported": True})
    pool.get(live)
    with pytest.raises(Unsupported):
        pool.get(cannot)
    pool.begin(live, SPARE)
    pool.begin(cannot, SPARE)
    assert events == ["start a", "start b"]
    assert pool.leases.held == frozenset()
    pool.close_all()


def test_who_must_wait_ends_what_was_begun(
    pool: Pool, tmp_path: Path, events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.begin(plan(tmp_path, "a"), SPARE)
    other_run = Leases(tmp_path)
    assert other_run.take(["cpu:0"])
    held: list[frozenset[str]] = []
    take = Leases.take

    def watched(self: Leases, names: Any, *, wait_s: float = 1.0) -> bool:
        if wait_s:
            held.append(self.held)
            other_run.release(["cpu:0"])
        return take(self, names, wait_s=wait_s)

    monkeypatch.setattr(Leases, "take", watched)
    pool.get(plan(tmp_path, "b", "cpu:0"))
    assert held == [frozenset()]
    assert events == ["begin a on [1]", "kill a", "start b"]
    pool.close_all()


def test_the_end_of_the_pool_is_the_end_of_what_was_begun(pool: Pool, tmp_path: Path, events: list[str]) -> None:
    pool.begin(plan(tmp_path, "a"), SPARE)
    pool.close_all()
    pool.close_all()
    assert events == ["begin a on [1]", "kill a"]
    assert pool.leases.held == frozenset()
