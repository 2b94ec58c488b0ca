"""Each extension, used by the real suite in a process of its own, with nothing edited but PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genqual.faults.matrix.store import FAULT_FREE, Store
from tests.here import CPU
from tests.plugin.suite import ROOT, numpy_engine, suite
from tests.plugin.test_other_architectures import tokenizer

HERE = Path(__file__).parent
SMALL = ("--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32")


def installed(*names: str) -> dict[str, str]:
    """An environment in which these packages are installed."""
    places = [str(HERE / name) for name in names]
    return {"PYTHONPATH": os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def records(state: Path, kind: str) -> list[dict[str, object]]:
    found = [json.loads(path.read_bytes()) for path in sorted((state / "spool").rglob("*.json"))]
    return [one for one in found if one.get("kind") == kind]


@pytest.mark.parametrize("package", [path.parent.name for path in sorted(HERE.glob("*/*.dist-info"))])
def test_an_extension_is_one_file_beside_its_metadata(package: str) -> None:
    assert len(list((HERE / package).glob("*.py"))) == 1


def test_a_device_runs_the_shipped_engines(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", "toy and conformance", *SMALL, "-k", "test_logits_match_the_oracle", env=installed("toy_device")
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    assert {one["system"]["device"] for one in records(tmp_path, "judgement")} == {"toy"}  # type: ignore[index]
    again = suite(tmp_path / "without", "-m", "toy", *SMALL)
    assert again.returncode != 0, "without the package there is no such device"


def test_a_metric_is_measured_recorded_and_gated(tmp_path: Path) -> None:
    shape = ("--batch-sizes", "1", "--input-lengths", "32", "--new-tokens", "8")
    asked = ("-m", CPU, "--benchmark", *numpy_engine(), "-k", "test_slowest_step or test_top_probabilities")
    run = suite(tmp_path, *asked, *shape, env=installed("toy_metric"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no baseline" in run.stdout
    assert "slowest step ms" in run.stdout
    (record,) = records(tmp_path, "measurement")
    metrics = {one["name"]: one for one in record["metrics"]}  # type: ignore[attr-defined]
    slowest, median = metrics["slowest_step"], metrics["itl_p50"]
    assert slowest["gate"]["verdict"] == "no_baseline"
    assert slowest["value"] >= median["value"]


ARCEE = {
    **{"model_type": "arcee", "architectures": ["ArceeForCausalLM"], "dtype": "float32", "hidden_act": "relu2"},
    **{"rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 4096},
    **{"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "attention_bias": False},
    **{"vocab_size": 320, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "mlp_bias": True},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}


def write(model: Path) -> None:
    """A checkpoint with the names that transformers' Arcee has: no bias is zero and no norm is one. Needs no torch."""
    shapes = {"model.embed_tokens": (320, 48), "lm_head": (320, 48), "model.norm": (48,)}
    for layer in ("model.layers.0", "model.layers.1"):
        shapes |= {f"{layer}.input_layernorm": (48,), f"{layer}.post_attention_layernorm": (48,)}
        shapes |= {
            f"{layer}.self_attn.{name}_proj": (rows, 48) for name, rows in zip("qkvo", (48, 24, 24, 48), strict=True)
        }
        shapes |= {f"{layer}.mlp.up_proj": (96, 48), f"{layer}.mlp.down_proj": (48, 96)}
    random = np.random.default_rng(7)
    weights = {}
    for name, shape in shapes.items():
        values = 0.1 * random.standard_normal(shape)
        weights[f"{name}.weight"] = (values + (len(shape) == 1)).astype(np.float32)
        if ".mlp." in name:
            weights[f"{name}.bias"] = (0.1 * random.standard_normal(shape[0])).astype(np.float32)
    model.mkdir()
    (model / "config.json").write_text(json.dumps(ARCEE))
    save_file(weights, model / "model.safetensors", {"format": "pt"})


def test_an_architecture_is_judged_by_an_oracle_of_its_own(tmp_path: Path) -> None:
    model, env = tmp_path / "arcee", {**os.environ, **installed("toy_architecture")}
    env["GENQUAL_CACHE"] = str(tmp_path / "cache")
    write(model)
    tokenizer(model)
    make = [sys.executable, "-m", "genqual.cli", "reference", str(model), "--steps", "6", "--schemes", ""]
    made = subprocess.run(make, env=env, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    args = ("-m", f"{CPU} and conformance", f"--model={model}", "--engine", "transformers", "--dtype", "fp32")
    run = suite(tmp_path / "state", *args, "-k", "test_logits_match_the_oracle", "--no-upload", env=env)
    assert run.returncode == 0, run.stdout + run.stderr
    (record,) = records(tmp_path / "state", "judgement")
    assert record["judgement"]["verdict"] == "pass"  # type: ignore[index]
    assert record["judgement"]["independent"] is True  # type: ignore[index]
    without = subprocess.run(make, env={**env, "PYTHONPATH": ""}, check=False, capture_output=True, text=True)
    assert without.returncode != 0
    assert "--by transformers" in without.stderr


def test_a_property_is_run_with_ours_and_finds_its_fault(tmp_path: Path) -> None:
    """On one group: first with nothing wrong, then with the fault."""
    store = tmp_path / "cells.jsonl"
    mine = "test_no_logit_depends_on_the_id_of_padding"
    run = suite(
        tmp_path / "state", "-m", f"{CPU} and conformance", *SMALL, "-k", mine, "--no-upload",
        "-p", "genqual.faults.matrix.plugin", "--faults", f"{FAULT_FREE},toy_pad_seen", "--faults-store", str(store),
        env=installed("toy_property"),
    )  # fmt: skip
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed, 1 passed" in run.stdout
    said = {cell.fault: cell.outcome for cell in Store(store).cells.values() if cell.test == mine}
    assert said == {FAULT_FREE: "pass", "toy_pad_seen": "alarm"}


def test_an_engine_is_judged_by_the_same_suite(tmp_path: Path) -> None:
    args = ("-m", f"{CPU} and conformance", "--engine", "toy", *SMALL[2:])
    run = suite(tmp_path, *args, "-k", "test_logits_match or test_free_run or chunk", env=installed("toy_engine"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert {one["engine"]["name"] for one in records(tmp_path, "judgement")} == {"toy"}  # type: ignore[index]


def test_a_sink_takes_the_records_once(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    args = ("-m", CPU, *numpy_engine(), "-k", "test_top_probabilities", f"--upload=toy://{kept}")
    run = suite(tmp_path / "state", *args, env=installed("toy_sink"))
    assert run.returncode == 0, run.stdout + run.stderr
    lines = kept.read_bytes().splitlines()
    spooled = {path.read_bytes() for path in (tmp_path / "state" / "spool").rglob("*.json")}
    assert lines
    assert set(lines) <= {one.rstrip(b"\n") for one in spooled} | set(lines)
    push = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "push", f"--state-dir={tmp_path / 'state'}", f"toy://{kept}"],
        cwd=ROOT, env={**os.environ, **installed("toy_sink")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert kept.read_bytes().splitlines() == lines, push.stderr
