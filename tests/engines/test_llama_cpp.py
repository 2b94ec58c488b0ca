"""llama.cpp through docs/examples/llama_cpp_engine.py, judged by the real suite: honest, and less precise than it says.

Heavy, and only where GENQUAL_LLAMA_CPP names the Python of `tox -e llama-cpp`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from genqual.models import ggufwrite
from genqual.models.registry import resolve
from tests.engines import peers

PYTHON = os.environ.get("GENQUAL_LLAMA_CPP", "")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not PYTHON, reason="GENQUAL_LLAMA_CPP names no Python with llama-cpp-python: tox -e llama-cpp"),
]


def judged(folder: Path, model: str, dtype: str, *more: str, holds: str = "") -> tuple[peers.Done, dict[str, Any]]:
    file = ggufwrite.write(resolve(model), folder / "model.gguf", holds or dtype)
    return peers.judged(folder, model, dtype, PYTHON, "llama_cpp_engine.py", str(file), *more)


@pytest.mark.parametrize("dtype", ggufwrite.DTYPES)
def test_a_llama_is_right_in_what_it_declares(dtype: str, tmp_path: Path) -> None:
    run, found = judged(tmp_path, "llama-tiny", dtype)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {name: one["verdict"] for name, one in found.items()} == {
        "free_run_follows_the_oracle": "pass",
        "top_probabilities_match_the_oracle": "pass",
    }


@pytest.mark.parametrize(
    ("model", "more"), [("llama-tiny", "--kv=f16"), ("llama-tiny", "--flash-attention"), ("bloom-tiny", "")]
)
def test_f16_inside_fp32_shows_in_its_probabilities_though_not_in_its_text(
    model: str, more: str, tmp_path: Path
) -> None:
    """The cache, the attention kernel, and the table of GELU that ggml has for a CPU."""
    run, found = judged(tmp_path, model, "fp32", *filter(None, [more]))
    assert run.returncode == 1, run.stdout + run.stderr
    assert found["free_run_follows_the_oracle"]["verdict"] == "pass"
    top = found["top_probabilities_match_the_oracle"]
    assert top["verdict"] == "fail"
    assert top["nrms"] > 5 * top["limit"]


def test_a_file_of_another_dtype_is_unsupported(tmp_path: Path) -> None:
    run, found = judged(tmp_path, "llama-tiny", "fp32", holds="bf16")
    assert not found
    assert "model.gguf holds bf16, not fp32" in run.stdout
