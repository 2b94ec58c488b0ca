"""`genqual node` with its real checks, killed with -9 within each required one, and resumed each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from genqual.health.levels import CHECKS, Level

pytestmark = pytest.mark.heavy  # a whole short run, and the half of each check for a second time

MINUTES = 1.0
COMMAND = [sys.executable, "-m", "genqual.cli", "node", "--minutes", str(MINUTES), "--cores", "0"]


def until(done: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)  # until the other process has come so far


def ended(state: Path) -> list[str]:
    """The checks whose findings are on disk; the file is whole at any moment, or not there yet."""
    return list(json.loads(state.read_text())["checks"]) if state.exists() else []


def verdict(document: str) -> tuple[str, dict[str, str]]:
    """Fit or not, and what was said of each check; counters have their own lines."""
    read: dict[str, Any] = json.loads(document)
    names = {one.name for one in CHECKS}
    said = {one["check"]: one["outcome"] for one in read["findings"] if one["check"] in names}
    return read["verdict"], said


def kill_within(state: Path, after: int, errors: Path) -> None:
    """Go on with the run, and kill it two seconds into the check that follows `after` of them."""
    more = ["--resume"] if state.exists() else []
    with errors.open("w") as stream:
        run = subprocess.Popen([*COMMAND, "--state", str(state), *more], stdout=subprocess.DEVNULL, stderr=stream)
    try:
        until(lambda: run.poll() is not None or (state.exists() and len(ended(state)) >= after), 300)
        assert run.poll() is None, errors.read_text()
        time.sleep(2)  # into the next check, not between two
        children = psutil.Process(run.pid).children(recursive=True)
        assert len(ended(state)) == after, "the check was over before it was cut off"
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children), 10)


def test_a_run_killed_within_each_required_check_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=600)
    expected = verdict(whole.stdout)
    state = tmp_path / "state.json"
    # On one core the optional checks have nothing to compare, and end at once.
    required = [one for one in CHECKS if one.required]
    assert [one for one in Level("", MINUTES * 60).fitting(CHECKS) if one.required] == required == list(CHECKS[:3])
    for moment in range(len(required)):
        kill_within(state, moment, tmp_path / "errors")
        assert ended(state) == [one.name for one in required[:moment]], "a check that was cut off counts for nothing"
    last = subprocess.run([*COMMAND, "--state", str(state), "--resume"], capture_output=True, text=True, check=False,
                          timeout=600)  # fmt: skip
    assert verdict(last.stdout) == expected, last.stderr
    assert last.returncode == whole.returncode
    assert not state.exists()
    assert all(f"{one.name}: kept from the interrupted run" in last.stderr for one in required[:-1])
