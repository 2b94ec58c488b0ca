"""The mutation run of the suite: what it changes, which properties it judges then, and that every check is one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.benchmarks import suite_mutant
from tests.benchmarks.mutants import told
from tests.benchmarks.suite_mutant import NOTICED, TOO_LONG, changed, weakened
from tests.faults.finders import ELSEWHERE, FINDERS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
LIMIT = 3

def test_one(generator, verdict):
    first, second = generator.score(1), generator.score(2)
    verdict(judge.judge_bitwise(first, second, dtype="fp32"))

def test_two(examples):
    examples(check, row=LIMIT)

def helper():
    return 1
"""


def test_a_change_is_of_the_tests_it_touches() -> None:
    assert changed(SOURCE, SOURCE.replace("score(2)", "score(3)")) == ["test_one"]
    assert changed(SOURCE, SOURCE.replace("row=LIMIT", "row=4")) == ["test_two"]
    assert changed(SOURCE, SOURCE.replace("LIMIT = 3", "LIMIT = 4")) == ["test_one", "test_two"]
    assert changed(SOURCE, SOURCE.replace("return 1", "return 2")) == ["test_one", "test_two"]
    assert changed(SOURCE, SOURCE + "\n# only a comment\n") == []


def test_weakening_takes_out_the_check_or_compares_a_thing_with_itself() -> None:
    found = {(name, how): text for name, how, text in weakened(SOURCE)}
    assert set(found) == {
        ("test_one", "its check removed"),
        ("test_one", "compared with itself"),
        ("test_two", "its check removed"),
    }
    assert "verdict(" not in found["test_one", "its check removed"].split("def test_two")[0]
    assert "judge_bitwise(first, first" in found["test_one", "compared with itself"]


def test_a_weakened_property_is_found_only_where_the_unchanged_one_is_quiet() -> None:
    assert told(0, NOTICED) == "found"
    assert told(0, 0) == "SURVIVES"
    assert told(NOTICED, NOTICED).startswith("SAYS NOTHING: unchanged")
    assert told(0, TOO_LONG).startswith("SAYS NOTHING: weakened")


@pytest.mark.parametrize(("seen", "code"), [(True, NOTICED), (False, 0), (None, TOO_LONG)])
def test_a_named_property_is_judged_though_nothing_changed(
    seen: bool | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def noticed(test: str, file: Path) -> bool:
        asked.append(test)
        if seen is None:
            raise subprocess.TimeoutExpired("pytest", 1)
        return seen

    monkeypatch.setattr(suite_mutant, "noticed", noticed)
    file = tmp_path / "test_some.py"
    file.write_text(SOURCE)
    assert suite_mutant.main([str(file), str(file)]) == 0
    assert asked == []
    assert suite_mutant.main([str(file), str(file), "--test", "test_one"]) == code
    assert asked == ["test_one"]


def test_every_property_of_the_suite_can_be_weakened() -> None:
    """A property whose check none of these forms reaches would never be tried."""
    files = sorted((ROOT / "suites" / "conformance").glob("test_*.py"))
    removed = {name for file in files for name, how, _ in weakened(file.read_text()) if how == "its check removed"}
    assert removed == FINDERS.keys() | ELSEWHERE.keys()
