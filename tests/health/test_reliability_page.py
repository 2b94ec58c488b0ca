"""docs/reliability.md names tests that are there: a row without its test would be a promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.health.hardware_events import EVENTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
NAMED = re.compile(r"`([a-z_/]+\.py)::(\w+)`( \(heavy\))?")
HEAVY = "pytest.mark.heavy"


def is_heavy(file: str, test: str) -> bool:
    """Whether the whole test is: a case of it that is leaves the others. Fails where there is no such test."""
    text = (ROOT / "tests" / file).read_text()
    made = [one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef) and one.name == test]
    assert made, f"tests/{file} has no {test}"
    return f"pytestmark = {HEAVY}" in text or any(ast.unparse(one) == HEAVY for one in made[0].decorator_list)


def test_each_row_names_a_test_that_is_there_and_says_whether_it_is_heavy() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault ")]
    assert len(rows) >= 35
    for row in rows:
        named = NAMED.findall(row)
        assert named, f"no test: {row}"
        for file, test, heavy in named:
            assert bool(heavy) is is_heavy(file, test), f"{file}::{test}"


def test_the_number_of_events_is_the_catalogue_s() -> None:
    said = re.search(r"(\d+) hardware events of (\d+) kinds", PAGE)
    assert said
    assert (int(said[1]), int(said[2])) == (len(EVENTS), len({event.name for event in EVENTS}))
