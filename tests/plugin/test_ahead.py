"""Which group is begun beside which test, told from a list of tests alone; and that a run of the suite does so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from genqual.cases import Case
from genqual.devices.registry import processor
from genqual.ranks.pool import Pool
from genqual.session.context import Run
from genqual.session.groups import PlannedTest, upcoming
from genqual.session.options import Options
from genqual.session.selection import Selection
from tests.here import CPU
from tests.plugin.suite import suite

SPY = """
from pathlib import Path
from genqual.ranks.group import RankGroup

begin, start = RankGroup.begin.__func__, RankGroup.start.__func__

def note(*words):
    with Path(__file__).with_name("groups").open("a") as file:
        print(*words, file=file)

@classmethod
def spied_begin(cls, plan, cores, progress=None):
    note("begin", plan.case)
    return begin(cls, plan, cores, progress)

@classmethod
def spied_start(cls, plan, progress=None, begun=None):
    note("go on with" if begun else "start", plan.case)
    return start(cls, plan, progress, begun)

RankGroup.begin, RankGroup.start = spied_begin, spied_start
"""

A, B, C = (Case(CPU, "transformers", name, "fp32") for name in ("a", "b", "c"))


def test_the_next_case_is_begun_when_the_first_test_has_started_its_own() -> None:
    steps = [PlannedTest(A), PlannedTest(A), PlannedTest(A), PlannedTest(B), PlannedTest(B), PlannedTest(C)]
    assert upcoming(steps) == [None, B, None, None, C, None]


def test_nothing_is_begun_beside_or_before_what_is_timed() -> None:
    timed = PlannedTest(B, timed=True)
    assert upcoming([PlannedTest(A), PlannedTest(A), timed, timed, PlannedTest(C), PlannedTest(C)]) == [None] * 6


def test_nothing_is_begun_for_a_case_that_is_timed_later() -> None:
    steps = [
        PlannedTest(A),
        PlannedTest(A),
        PlannedTest(B),
        PlannedTest(B),
        PlannedTest(C),
        PlannedTest(C),
        PlannedTest(B, timed=True),
    ]
    assert upcoming(steps) == [None, None, None, C, None, None, None]


def test_no_tests_no_groups() -> None:
    assert upcoming([]) == []
    assert upcoming([PlannedTest(A)]) == [None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("GENQUAL_RUNTIME_DIR", str(tmp_path / "leases"))
    options = Options(state_dir=str(tmp_path))
    made = Run(options, Selection(options, ""), "run", lambda _: None)
    yield made
    made.close()


def test_nothing_is_begun_where_no_core_is_idle(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Pool, "begin", lambda _, plan, spare: begun.append(plan.case.id))
    cores = processor().probe().count
    comes = replace(A, model="llama-tiny")
    run.groups.begin(comes, beside=Case(CPU, "deepspeed-inference", "llama-tiny", "fp32", cores))
    assert begun == []
    run.groups.begin(comes, beside=replace(A, model="bloom-tiny"))
    assert len(begun) == (1 if cores > 1 else 0)


def test_the_oracle_leaves_cores_to_what_imports_beside_it(run: Run) -> None:
    with threadpool_limits(limits=None):  # what was set before is set again
        run.references.oracle("llama-tiny")
        threads = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    assert threads
    assert max(threads) <= max(1, len(os.sched_getaffinity(0)) // 2)


def test_a_run_begins_the_next_group_on_a_core_that_is_idle(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    run = suite(
        tmp_path, "-p", "spy", "-m", CPU, "--engine", "transformers", "--model", "llama-tiny", "--no-upload",
        "-k", "every_logit_is_finite or a_prompt_of_one_token",
        env={"PYTHONPATH": str(tmp_path), "GENQUAL_RUNTIME_DIR": str(tmp_path / "leases")},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    first, second = (f"{CPU}-transformers-llama-tiny-{dtype}" for dtype in ("fp32", "bf16"))
    idle = processor().probe().count > 1
    later = [f"begin {second}", f"go on with {second}"] if idle else [f"start {second}"]
    assert (tmp_path / "groups").read_text().splitlines() == [f"start {first}", *later]
