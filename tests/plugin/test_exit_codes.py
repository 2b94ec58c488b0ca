"""The table of docs/ci.md is what real runs do: every verdict in every mode, its exit code, JUnit and annotation."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.plugin.scripted import MODES, ROWS, SESSIONS
from tests.plugin.suite import ROOT

PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("scripted runs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugin.scripted", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(ran: dict[str, Any]) -> list[str]:
    """The rows of the first table of the page: exit codes by mode, then JUnit and annotation without and with --gate"""
    lines = []
    for row in ROWS:
        cells = ran["verdicts"][row]
        codes = [str(cells[mode]["exit"]) for mode in MODES]
        shown = [
            " / ".join(dict.fromkeys(cells[mode][what] for mode in ("plain", "--gate")))
            for what in ("junit", "annotation")
        ]
        lines.append(f"| {' | '.join([row, *codes, *shown])} |")
    return lines


def test_every_verdict_ends_as_the_page_says(ran: dict[str, Any]) -> None:
    wanted = "\n".join(table(ran))
    assert wanted in PAGE, f"docs/ci.md has another table; this is what runs do:\n{wanted}"


def test_a_run_without_a_verdict_ends_as_the_page_says(ran: dict[str, Any]) -> None:
    wanted = "\n".join(f"| {name} | {ran['sessions'][name]} |" for name in SESSIONS)
    assert wanted in PAGE, f"docs/ci.md has another table; this is what runs do:\n{wanted}"


def test_a_gate_lets_no_unjudged_verdict_pass_and_no_known_failure_fail(ran: dict[str, Any]) -> None:
    """What the modes are for, whatever the page says."""
    codes = {row: {mode: cell["exit"] for mode, cell in cells.items()} for row, cells in ran["verdicts"].items()}
    for row in ("INCONCLUSIVE", "NO BASELINE", "NO REFERENCE", "out of memory (timed)"):
        assert (codes[row]["plain"], codes[row]["--gate"], codes[row]["waived"]) == (0, 1, 0), row
    for row in ("REGRESSED", "FAIL", "a rank was lost", "out of memory (property)"):
        assert (codes[row]["plain"], codes[row]["--gate"], codes[row]["waived"]) == (1, 1, 0), row
    assert set(codes["HARDWARE"].values()) == {1}, "no waiver excuses the hardware"
    for row in ("PASS", "IMPROVED"):
        assert (codes[row]["plain"], codes[row]["--gate"], codes[row]["waived"]) == (0, 0, 1), row


def test_no_unjudged_test_is_a_pass_in_junit(ran: dict[str, Any]) -> None:
    for row, cells in ran["verdicts"].items():
        for mode, cell in cells.items():
            if cell["junit"] == "passed":
                assert row in ("PASS", "IMPROVED"), (row, mode)
            assert (cell["junit"] == "failure") == (cell["annotation"] == "error"), (row, mode)
