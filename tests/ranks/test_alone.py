"""One rank is started without a launcher: it answers, and every way to fall is told by its true cause all the same."""

from __future__ import annotations

import os
import signal

import numpy as np
import psutil
import pytest

from genqual.engines.base import TokenBatch
from genqual.errors import BadInput, EngineFailed
from genqual.ranks import processes
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.launchers import LAUNCHERS, RankJob
from genqual.ranks.pool import Pool
from tests.ranks import stand_in
from tests.ranks.conftest import PlanOf

BATCH = TokenBatch.of([[3, 1, 4], [1, 5]])
HERE = "tests.ranks.stand_in"


@pytest.fixture
def generator(pool: Pool, plan_of: PlanOf) -> Generator:
    return Generator(pool, plan_of(ranks=1))


def answers(generator: Generator) -> bool:
    return np.array_equal(generator.generate(BATCH, 4).tokens, stand_in.expected_tokens(BATCH, 4))


def test_one_rank_answers_and_nothing_stands_between(generator: Generator) -> None:
    assert answers(generator)
    assert generator.plan.starter == "none"
    assert len(processes.members(generator.group.mark)) == 1
    (pid,) = generator.group.pids
    assert psutil.Process(pid).ppid() == os.getpid()


@pytest.mark.parametrize(
    ("fault", "params", "cause"),
    [
        ("kill", {"on": 0}, "rank 0 was killed by SIGKILL"),
        ("kill", {"on": 0, "sign": "SIGSEGV"}, "rank 0 was killed by SIGSEGV"),
        ("leave", {"on": 0, "code": 3}, "rank 0 exited with code 3"),
        ("leave", {"on": 0, "code": 0}, "rank 0 exited with code 0"),
    ],
)
def test_its_death_is_told_and_the_next_call_is_answered(
    generator: Generator, fault: str, params: dict[str, int | str], cause: str
) -> None:
    mark = generator.group.mark
    with pytest.raises(GroupLost) as caught, generator.fault(f"{HERE}:{fault}", **params):
        generator.generate(BATCH, 4)
    assert cause in caught.value.headline
    assert processes.members(mark) == []
    assert answers(generator)


def test_an_error_keeps_the_rank(generator: Generator) -> None:
    mark = generator.group.mark
    with generator.fault(f"{HERE}:fail", on=0, message="mine"), pytest.raises(EngineFailed, match="mine"):
        generator.generate(BATCH, 4)
    assert answers(generator)
    assert generator.group.mark == mark


def test_a_death_between_calls_is_told(generator: Generator) -> None:
    assert answers(generator)
    os.kill(generator.group.pids[0], signal.SIGKILL)
    with pytest.raises(GroupLost, match="rank 0 was killed by SIGKILL"):
        generator.generate(BATCH, 4)
    assert answers(generator)


def test_several_ranks_need_a_launcher(plan_of: PlanOf, generator: Generator) -> None:
    assert plan_of().starter == "torchrun"
    assert plan_of(ranks=1, launcher="torchrun").starter == "torchrun"
    with pytest.raises(BadInput, match="starts one rank, not 2"):
        LAUNCHERS["none"].command(RankJob(2, generator.plan.logs))
