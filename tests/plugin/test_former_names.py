"""Suites of third parties that were written for the fixtures and marks of before 0.2: they run, and are told."""

from __future__ import annotations

from pathlib import Path

from tests.here import CPU
from tests.plugin.suite import suite

OLD = """
import pytest


@pytest.mark.conformance("cache", once=True, wants="passes")
def test_of_old(generator, passage, judge_it):
    some = passage.few(2, 3)
    first = generator.score(some.prompts, some.forced)
    judge_it(some.same(first, generator.score(some.prompts, some.forced), dtype=generator.case.dtype))


@pytest.mark.conformance("cache", wants="graph")
def test_what_the_engine_cannot(generator, passage, judge_it):
    raise AssertionError("not to be called")


@pytest.mark.performance("latency", needs="instances")
def test_what_was_not_asked_for(case, workload, beside):
    raise AssertionError("not to be called")
"""


def test_former_fixtures_and_arguments_of_marks_work_and_warn(tmp_path: Path) -> None:
    file = tmp_path / "test_old.py"
    file.write_text(OLD)
    asked = ("-m", CPU, "--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32,bf16", "--benchmark")
    run = suite(tmp_path, str(file), *asked, "--batch-sizes", "1", "--no-upload", "-v", timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout, "once=True: of two dtypes, one"
    assert "2 not applicable" in run.stdout, "wants=: an ability that this engine lacks"
    assert "deselected" in run.stdout, "needs=: an option that was not given"
    for old, new in {"passage": "scoring_sample", "judge_it": "verdict"}.items():
        assert f"the fixture {old} is called {new} now" in run.stdout
    for old, new in {"wants": "requires_ability", "needs": "requires_option", "once": "one_dtype"}.items():
        assert f"{old}= is called {new}= now" in run.stdout
