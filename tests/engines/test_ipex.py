"""IPEX through docs/examples/ipex_engine.py, judged by the suite: right for a Llama, wrong for padded rows of BLOOM.

Heavy, and only where GENQUAL_IPEX names the Python of `tox -e ipex`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.engines import peers

PYTHON = os.environ.get("GENQUAL_IPEX", "")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not PYTHON, reason="GENQUAL_IPEX names no Python with IPEX: tox -e ipex"),
]


def judged(folder: Path, model: str, dtype: str, *more: str) -> tuple[peers.Done, dict[str, Any]]:
    return peers.judged(folder, model, dtype, PYTHON, "ipex_engine.py", *more)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8-weight"])
def test_a_llama_is_right_in_what_it_declares(dtype: str, tmp_path: Path) -> None:
    run, found = judged(tmp_path, "llama-tiny", dtype)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {name: one["verdict"] for name, one in found.items()} == {
        "free_run_follows_the_oracle": "pass",
        "top_probabilities_match_the_oracle": "pass",
    }


def test_padded_rows_of_bloom_are_wrong_with_its_kernels_and_right_without(tmp_path: Path) -> None:
    run, found = judged(tmp_path / "ipex", "bloom-tiny", "fp32")
    assert run.returncode == 1, run.stdout + run.stderr
    top = found["top_probabilities_match_the_oracle"]
    assert top["verdict"] == found["free_run_follows_the_oracle"]["verdict"] == "fail"
    assert top["nrms"] > 1000 * top["limit"]
    run, found = judged(tmp_path / "plain", "bloom-tiny", "fp32", "--plain")
    assert run.returncode == 0, run.stdout + run.stderr
    assert found["top_probabilities_match_the_oracle"]["verdict"] == "pass"


def test_a_scheme_that_it_does_not_load_is_unsupported(tmp_path: Path) -> None:
    run, found = judged(tmp_path, "llama-tiny", "fp16")
    assert not found
    assert "this program loads fp32, bf16, int8-weight, not fp16 here" in run.stdout
