"""Real torchrun, stand-in engines: groups answer, and every way to fall is told by its true cause, in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

from genqual.cases import Json
from genqual.devices.base import Placement
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput, EngineFailed, OutOfMemory, Unsupported
from genqual.ranks import processes, protocol
from genqual.ranks.client import Generator
from genqual.ranks.connections import Reply
from genqual.ranks.deadlines import Deadlines
from genqual.ranks.errors import GroupLost
from genqual.ranks.group import GRACE_S, RankGroup
from genqual.ranks.pool import Pool
from genqual.ranks.protocol import ChannelError
from tests.ranks import stand_in
from tests.ranks.conftest import ROOT, PlanOf

BATCH = TokenBatch.of([[3, 1, 4], [1, 5]])
HERE = "tests.ranks.stand_in"
WITHIN_S = 30  # half of the deadline of a call: a loss is noticed, not waited for


@pytest.fixture
def generator(pool: Pool, plan_of: PlanOf) -> Generator:
    return Generator(pool, plan_of())


def answers(generator: Generator) -> bool:
    return np.array_equal(generator.generate(BATCH, 4).tokens, stand_in.expected_tokens(BATCH, 4))


@contextmanager
def lost(generator: Generator, within_s: float, *, again: bool = True) -> Iterator[pytest.ExceptionInfo[GroupLost]]:
    """The block loses the group within `within_s`, nothing of it is left, and the next call works on a fresh one."""
    mark = generator.group.mark
    start = time.monotonic()
    with pytest.raises(GroupLost) as caught:
        yield caught
    assert time.monotonic() - start < within_s
    assert processes.members(mark) == []
    if again:
        assert answers(generator), "the next call gets a fresh group"
        assert generator.group.mark != mark


def test_two_ranks_generate_and_say_what_they_are(generator: Generator) -> None:
    assert answers(generator)
    assert [one.weight_bytes for one in generator.loaded] == [64, 64]
    assert generator.ranks_agree is not None
    assert generator.ranks_agree.agree
    assert len(generator.ranks_agree.choices) == 2
    fast, slow = generator.generate_ranks(BATCH, 3)
    assert slow.step_s.tolist() == [2.0, 4.0, 6.0]
    assert fast.step_s.tolist() == [1.0, 2.0, 3.0]
    both = generator.generate(BATCH, 3)
    assert (both.step_s.tolist(), both.wall_s, both.cpu_s) == ([2.0, 4.0, 6.0], 6.0, 1.0)
    assert [(one.peak, one.current) for one in generator.memory()] == [(2 << 20, 1 << 20)] * 2
    assert [one.current for one in generator.memory(trim=True)] == [0, 0]
    assert len(set(generator.weight_hash())) == 1
    assert generator.verify_unmutated()


def test_ranks_are_placed_before_anything_heavy_is_imported(generator: Generator) -> None:
    zero, one = generator.inspect()
    assert (zero["own"], one["own"]) == ("r0", "r1")
    assert zero["torch"] is False, "the rank imports no torch: engines do"
    assert (zero["threads"], zero["local_size"], zero["backend"]) == (1, "2", "gloo")
    assert zero["key_in_environment"] is False
    assert zero["first_path"] == str(ROOT), "PYTHONPATH first, not the folder where pytest was started"
    for pid in generator.group.pids:
        line = psutil.Process(pid).cmdline()
        assert not any(len(word) >= 64 and set(word) <= set("0123456789abcdef") for word in line), "no key in argv"


def test_scores_come_from_rank_0_and_the_others_prove_that_they_agree(generator: Generator) -> None:
    forced = np.array([[7, 8, 9], [1, 2, 3]])
    mine = stand_in.StandIn().score(BATCH, forced, logits=True)
    for call in (generator.score, generator.score_prefill):
        got = call(BATCH, forced, logits=True)
        for name in ("projections", "top_ids", "top_logits", "logsumexp", "forced_logit", "finite", "logits"):
            assert np.array_equal(getattr(got, name), getattr(mine, name)), name
        assert generator.ranks_agree is not None
        assert generator.ranks_agree.agree
        assert len(set(generator.ranks_agree.top)) == 1
    assert generator.score(BATCH, forced).logits is None
    fields: dict[str, Json] = {"logits": False}
    arrays = {"ids": BATCH.ids, "mask": BATCH.mask, "forced": forced}
    zero, one = generator.group.call("score", fields, arrays, deadline_s=20)
    assert "top_ids" in zero.arrays
    assert one.arrays == {}


def test_what_was_scored_once_is_known_until_the_group_is_another(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = RankGroup.call

    def counted(self: RankGroup, method: str, *rest: Any, **options: Any) -> Any:
        asked.append(method)
        return plain(self, method, *rest, **options)

    monkeypatch.setattr(RankGroup, "call", counted)
    forced, other = np.array([[7, 8, 9], [1, 2, 3]]), np.array([[7, 8, 9], [1, 2, 4]])
    first = generator.score_once(BATCH, forced)
    assert generator.score_once(BATCH, forced.copy()) is first
    assert generator.score_once(TokenBatch.of(BATCH.rows, length=5), forced) is not first, "other padding"
    assert generator.score_once(BATCH, other) is not first
    assert asked.count("score") == 3
    # A fault that no score meets, and that leaves the group alive: nothing is forgotten for a fresh group's sake.
    mark = generator.group.mark
    with generator.fault(f"{HERE}:exhaust"):
        assert generator.score_once(BATCH, forced) is not first, "a fault may change it"
        assert asked.count("score") == 4
    generator.score_once(BATCH, forced)
    assert asked.count("score") == 5, "and so may its healing"
    with generator.with_fault(f"{HERE}:exhaust", {}):
        generator.score_once(BATCH, forced)
        generator.score_once(BATCH, forced)
        assert asked.count("score") == 6
    assert generator.group.mark == mark
    generator.restart()
    generator.score_once(BATCH, forced)
    assert asked.count("score") == 7, "a fresh group is asked"
    generator.score(BATCH, forced)
    assert asked.count("score") == 8, "`score` always asks"
    read = generator.prefill_once(BATCH, forced)
    assert generator.prefill_once(BATCH, forced) is read is not generator.score_once(BATCH, forced)
    text = generator.generate_once(BATCH, 3)
    assert generator.generate_once(BATCH, 3) is text is not generator.generate_once(BATCH, 2)
    assert generator.generate_once(BATCH, 2).tokens.shape == (2, 2)
    assert (asked.count("score_prefill"), asked.count("generate"), asked.count("score")) == (1, 2, 8)
    generator.forget()
    assert generator.generate_once(BATCH, 3) is not text


def test_functions_are_invoked_in_every_rank(generator: Generator) -> None:
    replies = generator.invoke(f"{HERE}:add", {"offset": 10}, {"values": np.arange(3)})
    assert [reply.arrays["sum"].tolist() for reply in replies] == [[10, 11, 12]] * 2
    assert replies[0].value == {"count": 3, "engine": "StandIn"}
    mark = generator.group.mark
    with pytest.raises(EngineFailed, match="not plain JSON"):
        generator.invoke(f"{HERE}:not_a_number")
    with pytest.raises(EngineFailed, match="no_such_module"):
        generator.invoke("no_such_module:f")
    with pytest.raises(BadInput, match=r"must read package\.module:name"):
        generator.invoke("nothing")
    with pytest.raises(ChannelError, match="not plain JSON"):
        generator.invoke(f"{HERE}:add", {"offset": float("nan")})
    assert answers(generator)
    assert generator.group.mark == mark, "the group lives on"


def test_errors_of_every_rank_keep_the_group(generator: Generator) -> None:
    mark = generator.group.mark
    with generator.fault(f"{HERE}:exhaust"), pytest.raises(OutOfMemory, match="room for nothing"):
        generator.generate(BATCH, 2)
    assert answers(generator), "the fault is healed"
    with generator.fault(f"{HERE}:exit_interpreter"), pytest.raises(EngineFailed, match=r"SystemExit: 1 .*rank"):
        generator.generate(BATCH, 2)
    assert generator.verify_unmutated()
    assert generator.group.mark == mark


def test_mutated_weights_end_the_group(generator: Generator) -> None:
    mark = generator.group.mark
    with generator.fault(f"{HERE}:mutate"):
        assert not generator.verify_unmutated()
    assert generator.group.mark != mark
    assert generator.verify_unmutated()


def test_a_spoilt_group_stays_spoilt_and_the_next_fault_comes_too(generator: Generator) -> None:
    for name, error in (("exhaust", OutOfMemory), ("exit_interpreter", EngineFailed)):
        with generator.with_fault(f"{HERE}:{name}", {}):
            with pytest.raises(error):
                generator.generate(BATCH, 2)
            generator.restart()
            with pytest.raises(error):  # in fresh processes too
                generator.generate(BATCH, 2)
        assert answers(generator), "the fault is healed"
    with generator.with_fault(f"{HERE}:mutate", {}):
        assert generator.verify_unmutated(), "the weights are as the fault left them"
        mark = generator.group.mark
    assert generator.group.mark != mark, "weights that are not those loaded end the group"


def test_an_idle_group_answers(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    group = generator.group
    monkeypatch.setattr(RankGroup, "BACKSTOP_S", 0.1)
    group.call("ping", deadline_s=0.5)
    time.sleep(1.5)  # longer than the rank's own backstop for that call, which must be disarmed by now
    assert [reply.value["pid"] for reply in group.call("ping", deadline_s=5)] == list(group.pids)


@pytest.mark.parametrize("sign", ["SIGKILL", pytest.param("SIGSEGV", marks=pytest.mark.heavy)])
def test_a_rank_killed_in_the_middle(generator: Generator, sign: str) -> None:
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:kill", on=1, sign=sign):
        generator.generate(BATCH, 4)
    assert f"rank 1 was killed by {sign}" in caught.value.headline
    assert ("stand_in.py" in caught.value.states[1].stack) == (sign == "SIGSEGV"), "a crash leaves its stack"
    assert "rank 0 was stopped by the launcher" in str(caught.value)
    assert "server.py" in caught.value.states[0].stack, "rank 0 left its stack when it was stopped"
    assert "stand-in loaded on rank 1" in caught.value.states[1].log_tail


def test_a_rank_that_exits(generator: Generator) -> None:
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:leave", on=1, code=3):
        generator.generate(BATCH, 4)
    assert "rank 1 exited with code 3" in caught.value.headline


@pytest.mark.heavy
def test_a_rank_that_exits_as_if_nothing_were_wrong(generator: Generator) -> None:
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:leave", on=0, code=0):
        generator.generate(BATCH, 4)
    assert "rank 0 ended without a reported failure" in caught.value.headline


@pytest.mark.heavy
def test_a_rank_that_dies_between_calls(generator: Generator) -> None:
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:leave_soon", on=1, code=5):
        generator.generate(BATCH, 1)
        limit = time.monotonic() + 5
        while processes.members(generator.group.mark) and time.monotonic() < limit:
            time.sleep(0.1)  # the rank leaves after its answer, and torchrun with it
        generator.memory()
    assert "rank 1 exited with code 5 (between calls, found by `memory`)" in caught.value.headline


@pytest.mark.parametrize("fault", ["sleep_for_ever", pytest.param("hold_the_gil", marks=pytest.mark.heavy)])
def test_a_rank_that_hangs(generator: Generator, fault: str) -> None:
    arrays = {"ids": BATCH.ids, "mask": BATCH.mask}
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:{fault}", on=1):
        generator.group.call("generate", {"new_tokens": 2}, arrays, deadline_s=1.5)
    assert "rank 1 gave no answer (during `generate`, deadline 1.5 s)" in caught.value.headline
    assert "stand_in.py" in caught.value.states[1].stack, "the stack shows where, even under a held GIL"


def test_every_shape_of_a_fresh_group_has_the_allowance_of_a_first_call_once(
    pool: Pool, plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph is compiled for each batch, length and number of steps: what compiles must not count as hung."""
    patient = Generator(pool, replace(plan_of(), deadlines=Deadlines(base_s=20, first_s=100, step_s=1, token_s=1e-9)))
    given, real = [], RankGroup.call

    def call(self: RankGroup, method: str, *args: Any, deadline_s: float) -> tuple[Reply, ...]:
        given.append(round(deadline_s) if method == "generate" else 0)
        return real(self, method, *args, deadline_s=20)

    monkeypatch.setattr(RankGroup, "call", call)
    narrow = TokenBatch.of([[3, 1, 4]])
    for batch, steps in ((BATCH, 2), (BATCH, 2), (narrow, 2), (narrow, 2), (BATCH, 3), (BATCH, 3)):
        patient.generate(batch, steps)
    assert [seconds for seconds in given if seconds] == [122, 22, 122, 22, 123, 23]


def test_a_rank_ends_itself_when_pytest_does_not(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RankGroup, "BACKSTOP_S", -8.0)
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:hold_the_gil", on=1):
        arrays = {"ids": BATCH.ids, "mask": BATCH.mask}
        generator.group.call("generate", {"new_tokens": 2}, arrays, deadline_s=9)
    assert "rank 1 exited with code 1" in caught.value.headline
    assert "Timeout" in caught.value.states[1].stack


@pytest.mark.heavy
def test_a_stopped_rank_cannot_block_the_sender(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_S", 1.0)
    generator.restart()
    group = generator.group
    os.kill(group.pids[1], signal.SIGSTOP)
    with lost(generator, WITHIN_S) as caught:
        group.call("invoke", {"entry": "x:y", "params": {}}, {"values": np.zeros(8 << 20)}, deadline_s=2)
    assert "rank 1 stopped reading in the middle of the request" in caught.value.headline


@pytest.mark.heavy
def test_a_launcher_that_dies(generator: Generator) -> None:
    group = generator.group
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:sleep_for_ever", on=1):
        assert group._process is not None
        group._process.kill()
        generator.generate(BATCH, 2)
    assert "the launcher torchrun was killed by SIGKILL" in caught.value.headline


def test_one_rank_raises_while_the_other_waits_in_a_collective(pool: Pool, plan_of: PlanOf) -> None:
    generator = Generator(pool, plan_of("GlooStandIn"))
    assert answers(generator)
    with lost(generator, WITHIN_S) as caught, generator.fault(f"{HERE}:fail", on=1, message="the true cause"):
        generator.generate(BATCH, 2)
    error = caught.value
    assert "rank 1 raised ValueError: the true cause" in error.headline
    assert error.root is not None
    assert (error.root.rank, error.root.kind) == (1, "Exception")
    assert error.states[0].fate == "silent"
    assert "barrier" in error.states[0].stack
    with lost(generator, WITHIN_S, again=False) as caught, generator.fault(f"{HERE}:kill", on=0):
        generator.generate(BATCH, 2)
    assert "rank 0 was killed by SIGKILL" in caught.value.headline, "not the peer's `Connection closed by peer`"


def test_a_refusal_at_load_is_a_status_and_leaves_nothing(plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[RankGroup] = []
    monkeypatch.setattr(RankGroup, "_spawn", _recorded(RankGroup._spawn, begun))
    with pytest.raises(Unsupported, match="told to refuse"):
        RankGroup.start(plan_of(options={"refuse": True}))
    (group,) = begun
    assert processes.members(group.mark) == []


def test_a_refusal_waits_for_ranks_that_import_for_longer(plan_of: PlanOf) -> None:
    """On a busy host one rank reads its model seconds before another; what both refuse is no lost rank."""
    with pytest.raises(Unsupported, match=r"told to refuse.*every rank alike"):
        RankGroup.start(plan_of(options={"refuse": True, "late": GRACE_S + 1.0}))


def test_a_rank_that_cannot_start_is_told_with_its_log(plan_of: PlanOf) -> None:
    plan = plan_of(placement=Placement(env=({}, {}), cores=((0,), (99_999,))))
    with pytest.raises(GroupLost) as caught:
        RankGroup.start(plan)
    assert "rank 1 exited with code 1 (during `start`)" in caught.value.headline
    assert "sched_setaffinity" in str(caught.value)


def test_cores_are_bound_by_local_rank(plan_of: PlanOf) -> None:
    cores = sorted(os.sched_getaffinity(0))
    mine, other = cores[0], cores[-1]
    group = RankGroup.start(plan_of(placement=Placement(env=({}, {}), cores=((mine,), (other,)))))
    try:
        assert [reply.value["cores"] for reply in group.call("ping", deadline_s=5)] == [[mine], [other]]
        assert psutil.Process(group.pids[1]).cpu_affinity() == [other]
    finally:
        group.close()
    assert processes.members(group.mark) == []
    with pytest.raises(RuntimeError, match="was ended"):
        group.call("ping", deadline_s=5)


def test_a_group_that_does_not_start_in_time(plan_of: PlanOf) -> None:
    plan = replace(plan_of(), deadlines=Deadlines(start_s=0.01))
    said: list[str] = []
    with pytest.raises(GroupLost, match=r"gave no answer \(during `start`, deadline 0.01 s\)"):
        RankGroup.start(plan, said.append)
    assert "starting 2 rank(s) with torchrun" in said[0]


def _recorded(launch: Callable[[RankGroup], None], begun: list[RankGroup]) -> Callable[[RankGroup], None]:
    """`launch`, and which group it was: only its own processes count, whatever else runs on this machine."""

    def recorded(group: RankGroup) -> None:
        launch(group)
        assert processes.members(group.mark), "nothing was started, so nothing could be left"
        begun.append(group)

    return recorded
