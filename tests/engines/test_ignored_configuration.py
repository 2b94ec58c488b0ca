"""A program that computes with what is common, whatever config.json says, fails the main job: one value at a time.

Copies of the worked example of the docs, each with one value written into it. The suite is asked as the main job asks
it, with the model of the embedded profile, and judged by its records.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from tests.here import CPU, PYTHON
from tests.plugin.suite import ROOT, suite

EXAMPLE: Final = ROOT / "docs" / "examples" / "numpy_engine.py"
MODEL: Final = "llama-odd"

# What is replaced in the example, and by what: an engine that knows Llamas as they commonly are.
COMMON: Final[dict[str, tuple[str, str]]] = {
    "rotary base": ('(rope["rope_theta"] * factor)', "(10000.0 * factor)"),
    "rotary scaling": ('if rope.get("rope_type", "default") == "default":', "if True:"),
    "epsilon": ('np.float32(self.config["rms_norm_eps"])', "np.float32(1e-5)"),
    "no biases": ('bias = self.weights.get(f"{name}.bias")', "bias = None"),
    "width of a head in the scale": (
        "np.float32(np.sqrt(self.width))",
        'np.float32(np.sqrt(self.config["hidden_size"] // self.heads))',
    ),
    "untied, its head never written": (
        "return self.weights[head] @",
        'return self.weights.get("lm_head.weight", np.ones_like(self.weights[head])) @',
    ),
}
# The same, where the weights no longer fit: the program ends at its first request.
UNREADABLE: Final[dict[str, tuple[str, str, str]]] = {
    "width of a head": (
        'self.width = self.config["head_dim"]',
        'self.width = self.config["hidden_size"] // self.heads',
        "cannot reshape array",
    ),
    "untied": ('self.tied = self.config["tie_word_embeddings"]', "self.tied = False", "KeyError: 'lm_head.weight'"),
}


def judged(tmp_path: Path, program: Path) -> tuple[str, int, list[dict[str, Any]]]:
    """Output, exit status and records of the main job's free run and best log-probabilities of `program`."""
    done = suite(
        tmp_path / "state", "-m", CPU, "--engine", "external", "--model", MODEL, "--dtype", "fp32", "--no-upload",
        "--engine-command", f"{PYTHON} {shlex.quote(str(program))}", "-k", "top_probabilities or free_run",
    )  # fmt: skip
    records = [json.loads(path.read_text()) for path in (tmp_path / "state" / "spool").glob("*.json")]
    return done.stdout, done.returncode, records


def changed(tmp_path: Path, right: str, common: str) -> Path:
    """A copy of the example with `common` in place of `right`, which it has once."""
    text = EXAMPLE.read_text()
    assert text.count(right) == 1
    program = tmp_path / "numpy_engine.py"
    program.write_text(text.replace(right, common))
    return program


def test_the_main_job_runs_the_odd_llama() -> None:
    profile = tomllib.loads((ROOT / "suites" / "profiles" / "embedded.toml").read_text())
    plain = [row["models"] for row in profile["conformance"]["cases"] if row["engine"] == "transformers"]
    assert plain
    assert all(MODEL in models and "llama-tiny" not in models for models in plain)


def test_the_example_itself_passes(tmp_path: Path) -> None:
    output, status, records = judged(tmp_path, EXAMPLE)
    assert status == 0, output
    assert [record["judgement"]["verdict"] for record in records] == ["pass", "pass"]


@pytest.mark.parametrize("value", COMMON)
def test_a_value_that_was_written_into_the_program_fails(value: str, tmp_path: Path) -> None:
    output, status, records = judged(tmp_path, changed(tmp_path, *COMMON[value]))
    assert status == 1, output
    assert len(records) == 2
    assert "fail" in [record["judgement"]["verdict"] for record in records], output


@pytest.mark.parametrize("value", UNREADABLE)
def test_a_program_that_the_weights_do_not_fit_passes_nothing(value: str, tmp_path: Path) -> None:
    right, common, why = UNREADABLE[value]
    output, status, records = judged(tmp_path, changed(tmp_path, right, common))
    assert status == 1, output
    assert why in output
    assert [record for record in records if (record.get("judgement") or {}).get("verdict") == "pass"] == []
