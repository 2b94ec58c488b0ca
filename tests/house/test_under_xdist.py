"""These tests run under xdist as well: what a test starts is no worker, and every worker collects the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NESTED = """
import json, os, subprocess, sys

def test_nested(tmp_path):
    (tmp_path / "test_timed.py").write_text("def test_timed(benchmark):\\n    benchmark(int)\\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-json=timed.json", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "timed.json").read_text())["benchmarks"]
    assert [one["name"] for one in found] == ["test_timed"]
    assert "PYTEST_XDIST_WORKER_COUNT" not in os.environ, "the gate would take a nested run for one of several workers"
"""


def test_a_run_that_a_worker_s_test_starts_has_its_benchmarks(tmp_path: Path) -> None:
    """pytest-benchmark writes none in a worker, and takes its variables for a sign of one."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_nested.py").write_text(NESTED, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", "."],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
