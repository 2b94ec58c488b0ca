"""`pytest -m qualification --resume`: after kill -9 at any moment it ends with the verdicts of an undisturbed run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin import suite as plugin

NAMES = ["first", "wrong", "last"]
MOMENTS = 24  # of an undisturbed run: two a check, and two a write of its state, of which each check has three


def suite(here: Path, moment: int, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"HERE": str(here), "MOMENT": str(moment)}
    return plugin.suite(
        here / "state", "--pyargs", "genqual.suites.qualification", "-m", f"{CPU} and qualification",
        "-p", "tests.health.marked_checks", "--no-upload", "-v", "--color=no", *words, env=environment,
    )  # fmt: skip


def verdicts(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return dict(re.findall(rf"\[{CPU}-(\w+)\] (PASSED|FAILED)", run.stdout))


def ran(here: Path) -> list[str]:
    return (here / "ran").read_text().split() if (here / "ran").exists() else []


def test_an_undisturbed_run_leaves_nothing_to_resume(tmp_path: Path) -> None:
    done = suite(tmp_path, -1)
    assert verdicts(done) == {"first": "PASSED", "wrong": "FAILED", "last": "PASSED"}, done.stdout + done.stderr
    assert (tmp_path / "marks").read_text() == str(MOMENTS)
    assert ran(tmp_path) == NAMES
    refused = suite(tmp_path, -1, "--resume")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no run of the node's checks was interrupted" in refused.stdout + refused.stderr
    assert ran(tmp_path) == NAMES, "nothing ran"


@pytest.mark.parametrize("moment", [0, 1, 3, 4, 5, 6, 7, 9, 11, 12, 14, 15, 17, 19, 20, 22, 23])
def test_a_killed_run_of_level_2_goes_on_to_the_same_verdicts(tmp_path: Path, moment: int) -> None:
    killed = suite(tmp_path, moment, "--level", "2")
    assert killed.returncode == -9, killed.stdout + killed.stderr
    before = ran(tmp_path)
    resumed = suite(tmp_path, -1, "--resume", "--level", "2")
    assert resumed.returncode == 1, resumed.stdout + resumed.stderr
    assert verdicts(resumed) == {"first": "PASSED", "wrong": "FAILED", "last": "PASSED"}
    again = ran(tmp_path)[len(before) :]
    # What ended is not run again; of the one that was cut off, that depends on whether its findings were on disk.
    assert again in (NAMES[len(before) :], NAMES[max(0, len(before) - 1) :])


def test_the_findings_of_an_older_run_or_another_level_do_not_count(tmp_path: Path) -> None:
    assert suite(tmp_path, 12).returncode == -9
    before = ran(tmp_path)
    other = suite(tmp_path, -1, "--resume", "--level", "2")
    assert other.returncode == pytest.ExitCode.USAGE_ERROR
    assert "is of another run (level 1 then, 2 now)" in other.stdout + other.stderr
    assert ran(tmp_path) == before, "nothing ran, and what was found is still there"
    assert any((tmp_path / "state" / "node" / "unfinished").iterdir())
    assert suite(tmp_path, 0).returncode == -9  # a new run, killed before its first check
    before = ran(tmp_path)
    assert verdicts(suite(tmp_path, -1, "--resume"))["first"] == "PASSED"
    assert ran(tmp_path)[len(before) :] == NAMES, "the first run's findings are not this one's"
