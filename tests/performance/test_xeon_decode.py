"""The program that holds engines against the bandwidth bound: its arithmetic on made-up rows, never its timings."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.models.registry import resolve
from tests.benchmarks import xeon_decode

ROWS: dict[str, dict[str, Any]] = {
    "eager": {"tpot_s": 0.030, "dtype": "bf16", "bandwidth": 15e9, "about": {}, "ready_s": 1.0},
    "openvino": {"tpot_s": 0.015, "dtype": "fp32", "bandwidth": 15e9, "about": {"openvino": "x"}, "ready_s": 1.0},
    "vllm": {"tpot_s": 0.010, "dtype": "bf16", "bandwidth": 15e9, "about": {}, "ready_s": 1.0},
    "max-autotune": {"tpot_s": 0.016, "dtype": "bf16", "bandwidth": 15e9, "about": {}, "ready_s": 1.0},
    "compiled": {"why": "ended with signal 8: no word"},
}


def test_the_fastest_of_our_own_engines_is_held_against_its_bound() -> None:
    best = xeon_decode.fastest(ROWS, 180_000_000)
    assert best is not None
    assert best[0] == "max-autotune"
    assert best[1] == pytest.approx(0.016 / 0.012)
    assert xeon_decode.fastest({"compiled": ROWS["compiled"]}, 1) is None


def test_a_row_that_did_not_run_says_why() -> None:
    said = xeon_decode.shown(ROWS, 180_000_000)
    assert "signal 8" in said
    assert "12.00" in said
    assert "2.50" in said  # eager: 30 ms against 12
    assert "24.00" in said  # openvino reads twice the bytes


def test_the_model_is_a_checkpoint_and_its_bytes_are_counted(tmp_path: Path) -> None:
    sizes = {"hidden": 32, "intermediate": 64, "layers": 1, "heads": 4, "kv_heads": 2, "vocabulary": 64}
    needed = xeon_decode.build(tmp_path / "model", sizes)
    attention, mlp, norms, head = 32 * 32 * 2 + 16 * 32 * 2, 3 * 32 * 64, 3 * 32, 64 * 32
    assert needed == 2 * (attention + mlp + norms + head)
    assert resolve(str(tmp_path / "model")).architecture == "llama"


def test_an_environment_that_is_not_there_and_a_row_that_dies_are_told(tmp_path: Path) -> None:
    options = argparse.Namespace(
        openvino_python=tmp_path / "none", vllm_python=tmp_path / "dies", new_tokens=2, repeats=1, core=0, timeout=20.0
    )
    dies = tmp_path / "dies"
    dies.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('last word')\n")
    dies.chmod(0o755)
    assert "tox exec -e openvino" in xeon_decode.measure("openvino", tmp_path, options)["why"]
    assert xeon_decode.measure("vllm", tmp_path, options) == {"why": "ended with code 1: last word"}
    dies.write_text(f"#!{sys.executable}\nprint('noise')\nprint({json.dumps(json.dumps({'tpot_s': 1}))})\n")
    assert xeon_decode.measure("vllm", tmp_path, options) == {"tpot_s": 1}
