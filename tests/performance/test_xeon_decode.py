"""The program that holds engines against the bandwidth bound: its arithmetic on made-up rows, never its timings."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genqual.models import weights
from genqual.models.registry import resolve
from tests.benchmarks import xeon_decode
from tests.here import PYTHON, python_script

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
        openvino_python=tmp_path / "none", vllm_python=tmp_path / "dies", llama_cpp_python=tmp_path / "none",
        ipex_python=tmp_path / "none", new_tokens=2, repeats=1, core=0, timeout=20.0,
    )  # fmt: skip
    dies = tmp_path / "dies"
    dies.write_text(python_script("import sys\nsys.exit('last word')\n"))
    dies.chmod(0o755)
    assert "make it with: tox -e llama-cpp" in xeon_decode.measure("llama-cpp", tmp_path, options)["why"]
    assert "make it with: tox -e ipex" in xeon_decode.measure("ipex", tmp_path, options)["why"]
    assert "tox exec -e openvino" in xeon_decode.measure("openvino", tmp_path, options)["why"]
    assert xeon_decode.measure("vllm", tmp_path, options) == {"why": "ended with code 1: last word"}
    dies.write_text(python_script(f"print('noise')\nprint({json.dumps(json.dumps({'tpot_s': 1}))})\n"))
    assert xeon_decode.measure("vllm", tmp_path, options) == {"tpot_s": 1}


@pytest.fixture
def stand_in(tmp_path: Path) -> argparse.Namespace:
    """The example in NumPy in the place of both programs' Python, which notes what it is given; a model to decode."""
    sizes = {"hidden": 64, "intermediate": 128, "layers": 1, "heads": 2, "kv_heads": 2, "vocabulary": 1024}
    xeon_decode.build(tmp_path / "model", sizes)
    python = tmp_path / "python"
    numpy_engine = shlex.quote(str(xeon_decode.ROOT / "docs" / "examples" / "numpy_engine.py"))
    told = "sed -u s/bf16/fp32/"  # the example computes in fp32 only
    given = shlex.quote(str(tmp_path / "given"))
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {given}\n{told} | {PYTHON} {numpy_engine}\n')
    python.chmod(0o755)
    return argparse.Namespace(
        openvino_python=python, vllm_python=python, llama_cpp_python=python, ipex_python=python,
        new_tokens=3, repeats=1, core=max(os.sched_getaffinity(0)), timeout=60.0,
    )  # fmt: skip


def test_ipex_runs_as_an_external_engine(tmp_path: Path, stand_in: argparse.Namespace) -> None:
    found = xeon_decode.measure("ipex", tmp_path / "model", stand_in)
    assert found.get("why") is None, found
    assert found["tpot_s"] > 0
    assert found["dtype"] == "bf16"
    assert (tmp_path / "given").read_text().splitlines() == [str(xeon_decode.ROOT / "docs/examples/ipex_engine.py")]


def test_llama_cpp_runs_as_an_external_engine_on_the_same_weights(tmp_path: Path, stand_in: argparse.Namespace) -> None:
    """The real row: what the program is given, and what comes of it."""
    found = xeon_decode.measure("llama-cpp", tmp_path / "model", stand_in)
    assert found.get("why") is None, found
    assert found["tpot_s"] > 0
    assert found["dtype"] == "bf16"
    engine, file = (tmp_path / "given").read_text().splitlines()
    assert engine.endswith("docs/examples/llama_cpp_engine.py")
    reader = gguf.GGUFReader(file)
    names = {one.name: one for one in reader.tensors}
    written = weights.lazily(resolve(str(tmp_path / "model")))["lm_head.weight"]
    stored = names["output.weight"].data.view(np.uint16).astype(np.uint32) << 16
    assert np.array_equal(stored.view(np.float32).reshape(written.shape), written)
