"""fp8's rounding against the definition of e4m3, and what a device without fp8 says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.here import CPU
from tests.plugin.suite import suite

SCRIPT = """
import json, sys, torch
from genqual.engines.hf.fp8 import rounded
from tests.here import CPU
print(json.dumps(rounded(torch.tensor(json.loads(sys.stdin.read()))).tolist()))
"""


def e4m3() -> np.ndarray:
    """Every finite number of e4m3, ascending: 4 bits of exponent (bias 7), 3 of fraction, no infinity."""
    positive = [2.0**-6 * m / 8 for m in range(8)]
    positive += [2.0 ** (e - 7) * (1 + m / 8) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)]
    return np.array(sorted({-x for x in positive} | set(positive)))


def nearest(value: float, grid: np.ndarray) -> float:
    """The nearest number of `grid`; of two as near, the one whose last bit is zero, which every second one has."""
    distance = np.abs(grid - value)
    tied = np.flatnonzero(distance == distance.min())
    middle = len(grid) // 2  # zero, an even one
    return float(grid[next(i for i in tied if len(tied) == 1 or (i - middle) % 2 == 0)])


def test_values_are_rounded_to_e4m3_times_the_scale_of_their_row() -> None:
    rows = np.random.default_rng(3).normal(size=(4, 24)).astype(np.float32) * np.array([[1e-3], [1], [40], [7e4]])
    rows = rows.astype(np.float32)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(rows.tolist()), capture_output=True, text=True, check=True
    )
    got = np.array(json.loads(done.stdout), dtype=np.float32)
    grid = e4m3()
    assert (len(grid), grid.max()) == (253, 448.0)
    for row, found in zip(rows, got, strict=True):
        scale = np.float32(np.abs(row).max()) / np.float32(448.0)
        want = [np.float32(nearest(float(value), grid)) * scale for value in row / scale]
        assert np.allclose(found, want, rtol=1e-6)
        assert not np.array_equal(found, row)


def test_a_processor_says_what_it_lacks(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp8", "--no-upload",
        "-k", "test_logits_match", "-rs", "--allow-absent",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 skipped" in run.stdout
    assert "fp8 does not run on cpu here: it has no e4m3 product" in run.stdout
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "spool").glob("*.json")]
    assert record["outcome"]["status"] == "unsupported"
    assert record["precision"]["dtype"] == "fp8"


def test_its_emulation_is_judged_by_its_envelope(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--engine", "transformers:emulate=true", "--model", "llama-tiny", "--dtype", "fp8",
        "--no-upload", "-k", "oracle",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
