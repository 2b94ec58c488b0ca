"""The pytest process: what it never imports, and how long it thinks before the first test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.here import CPU

ROOT: Final = Path(__file__).resolve().parents[2]

SPY = """
import sys
from tests.here import CPU

def pytest_unconfigure(config):
    heavy = {"torch", "transformers", "deepspeed", "accelerate"} & set(sys.modules)
    print("HEAVY", sorted(heavy))
"""


def collect(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "spy.py").write_text(SPY)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "spy", "--collect-only", "-q", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_collecting_imports_no_heavy_package(tmp_path: Path) -> None:
    run = collect(tmp_path, "-m", f"{CPU} or hpu or cuda or xpu", "--benchmark")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "HEAVY []" in run.stdout
    for case in (f"{CPU}-transformers-llama-odd-fp32", "hpu-transformers-llama-odd-bf16", "cuda-", "xpu-"):
        assert case in run.stdout


def test_the_spy_would_see_a_heavy_import(tmp_path: Path) -> None:
    (tmp_path / "guilty.py").write_text("import accelerate\n")
    run = collect(tmp_path, "-m", CPU, "-p", "guilty")
    assert "HEAVY ['accelerate'" in run.stdout
