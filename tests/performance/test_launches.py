"""Measuring on a group that is only a script: what is timed, what is kept, what memory running out becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from genqual.cases import Case, Json, Workload
from genqual.engines.base import Generated, Loaded, Memory, TokenBatch
from genqual.errors import EngineFailed, OutOfMemory, Unsupported
from genqual.metrics.compute import BadClock
from genqual.metrics.measure import Measurement, Measurements, measure
from tests.performance.runs import rank, run

WORKLOAD = Workload(batch=2, input_length=3, new_tokens=2)
ROWS = [[1, 2, 3], [4, 5, 6]]
CASE = Case("xeon", "transformers", "llama-tiny", "fp32")


class Group:
    """Answers call after call from a list; an exception in it is raised. Writes down what was asked of it."""

    def __init__(self, answers: Sequence[Generated | Exception]) -> None:
        self.loaded: Sequence[Loaded] = (rank(),)
        self.asked: list[str] = []
        self.batches: list[TokenBatch] = []
        self._answers = iter(answers)

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        self.asked.append(f"generate {new_tokens}")
        self.batches.append(batch)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def memory(self, *, reset: bool = False, trim: bool = False) -> Sequence[Memory]:
        self.asked.append("trim" if trim else "reset" if reset else "memory")
        return (Memory(5, 1, "made up"), Memory(9, 1, "made up"))

    def conditions(self) -> dict[str, Json]:
        self.asked.append("conditions")
        return {"asked": len(self.asked)}


def answers(count: int, *, cpu_s: float = 1.0) -> list[Generated]:
    return [run([1.0 + i, 2.0 + i], batch=2, cpu_s=cpu_s * (2.0 + i)) for i in range(count)]


def measured(group: Group, **changes: int) -> Measurement:
    options: dict[str, Any] = {"repetitions": 3, "warmup": 2} | changes
    return measure(group, WORKLOAD, ROWS, conditions=group.conditions, **options)


def test_warm_up_is_run_and_left_out() -> None:
    made = answers(5)
    group = Group(made)
    found = measured(group)
    assert list(found.runs) == made[2:]
    assert found.warmup == 2
    assert group.asked == [
        "trim",
        *["generate 2"] * 2,
        "reset",
        "conditions",
        *["generate 2"] * 3,
        "conditions",
        "memory",
    ]
    assert found.before != found.after
    assert found.peak_memory == 9
    assert all(np.array_equal(batch.ids, ROWS) and batch.mask.all() for batch in group.batches)


def test_cpu_share_is_per_thread_of_all_ranks() -> None:
    group = Group(answers(5, cpu_s=3.0))
    assert measured(group, threads=2).cpu_share == pytest.approx(1.5)
    group = Group(answers(5, cpu_s=3.0))
    group.loaded = (rank(), rank())
    assert measured(group, threads=2).cpu_share == pytest.approx(0.75)


@pytest.mark.parametrize("at", range(5))
def test_out_of_memory_is_an_outcome(at: int) -> None:
    group = Group([*answers(at), OutOfMemory("generate ran out of memory: 3 GiB asked")])
    found = measured(group)
    assert found.status == "oom"
    assert found.runs == ()
    assert "3 GiB" in found.message
    assert found.loaded == tuple(group.loaded)
    assert found.after


@pytest.mark.parametrize("error", [Unsupported("no"), EngineFailed("all ranks"), ZeroDivisionError()])
def test_other_failures_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)):
        measured(Group([*answers(1), error]))


@pytest.mark.parametrize("bad", [run([2.0, 1.0], batch=2), run([1.0, 2.0], batch=2, cpu_s=float("nan"))])
def test_a_bad_clock_ends_the_measurement(bad: Generated) -> None:
    with pytest.raises(BadClock):
        measured(Group([*answers(4), bad]))


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [[1, 2, 3], [4, 5]], [[1, 2], [4, 5]], []])
def test_rows_must_be_the_workload(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="not the workload b2-i3-n2"):
        measure(Group([]), WORKLOAD, rows, repetitions=1, warmup=0)


@pytest.mark.parametrize("option", ["repetitions", "warmup", "threads"])
def test_counts_must_make_sense(option: str) -> None:
    with pytest.raises(ValueError, match="at least"):
        measured(Group([]), **{option: -1})


@pytest.mark.parametrize("status", ["ok", "oom"])
def test_a_measurement_without_runs_is_not_ok(status: str) -> None:
    runs = () if status == "ok" else tuple(answers(1))
    with pytest.raises(ValueError, match="ok has runs"):
        Measurement(status, WORKLOAD, (rank(),), runs, 0)  # type: ignore[arg-type]


def maker(outcomes: list[Measurement | BaseException]) -> Callable[[], Measurement]:
    def make() -> Measurement:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return make


def test_items_of_a_case_share_one_measurement() -> None:
    kept = Measurements()
    one, two = (measured(Group(answers(5))) for _ in range(2))
    make = maker([one, two])
    assert kept.get(CASE, WORKLOAD, make) is kept.get(CASE, WORKLOAD, make) is one
    assert kept.get(CASE, Workload(2, 3, 9), make) is two


def test_items_of_a_broken_case_fail_with_one_cause() -> None:
    kept = Measurements()
    cause = EngineFailed("rank 1: shape mismatch")
    make = maker([cause])
    for _ in range(3):
        with pytest.raises(EngineFailed) as caught:
            kept.get(CASE, WORKLOAD, make)
        assert caught.value is cause
        assert len(caught.traceback) < 5


class Lost(BaseException):
    """As `ranks` tells that a group is gone."""


def test_a_lost_group_is_measured_again() -> None:
    kept = Measurements()
    good = measured(Group(answers(5)))
    make = maker([Lost(), good])
    with pytest.raises(Lost):
        kept.get(CASE, WORKLOAD, make)
    assert kept.get(CASE, WORKLOAD, make) is good
