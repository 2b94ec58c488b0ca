"""Which group is begun beside which test, told from a list of tests alone; and that a run of the suite does so."""

from __future__ import annotations

from pathlib import Path

from genqual.ahead import Step, upcoming
from genqual.devices.registry import processor
from genqual.spec import Case
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
    steps = [Step(A), Step(A), Step(A), Step(B), Step(B), Step(C)]
    assert upcoming(steps) == [None, B, None, None, C, None]


def test_nothing_is_begun_beside_or_before_what_is_timed() -> None:
    timed = Step(B, timed=True)
    assert upcoming([Step(A), Step(A), timed, timed, Step(C), Step(C)]) == [None] * 6


def test_nothing_is_begun_for_a_case_that_is_timed_later() -> None:
    steps = [Step(A), Step(A), Step(B), Step(B), Step(C), Step(C), Step(B, timed=True)]
    assert upcoming(steps) == [None, None, None, C, None, None, None]


def test_no_tests_no_groups() -> None:
    assert upcoming([]) == []
    assert upcoming([Step(A)]) == [None]


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
