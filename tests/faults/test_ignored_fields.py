"""Faults that an engine ignores a field: made from the declarations, each with an effect, none listed by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.conformance.oracle.registry import architecture_of, oracle_for
from genqual.faults import CATALOGUE, ignored_fields
from genqual.faults.ignored_fields import ignoring, unloadable
from genqual.faults.matrix.store import Store
from genqual.faults.matrix.tables import FaultMatrix
from genqual.models import architectures, embedded, integers
from tests.plugin.suite import ROOT

IDS = [int(i) for i in np.random.default_rng(5).integers(3, 259, 40)]  # longer than every window


Logits = np.ndarray[Any, np.dtype[np.float64]]


@cache  # both tests of a model read it
def truths(name: str) -> tuple[Logits, dict[str, Logits]]:
    """Logits by the oracle, (tokens, vocabulary): of the model, and with each field ignored."""
    config, state = embedded.config(name), integers.state(name)
    found = {}
    for field, changed in ignoring(config).items():
        shapes = architecture_of(changed).declared(changed)[0].shapes()
        found[field] = oracle_for(changed, {key: state[key] for key in shapes}).logits(IDS)
    return oracle_for(config, state).logits(IDS), found


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_every_field_that_can_be_ignored_changes_the_logits(name: str) -> None:
    """By the oracle, in float64: a fault without an effect would survive whatever the suite looked at."""
    right, ignored = truths(name)
    found = {field: float(np.sqrt(np.mean((wrong - right) ** 2)) / right.std()) for field, wrong in ignored.items()}
    assert {field: nrms for field, nrms in found.items() if nrms < 1e-4} == {}
    assert len(found) >= 6


@pytest.fixture(scope="module")
def injected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers says with each field ignored, by the injector itself."""
    room = tmp_path_factory.mktemp("injected")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.configured_peer", str(room), *architectures.CONFIGS],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GENQUAL_CACHE": str(room / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return room


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_the_injected_model_is_the_one_that_ignores_the_field(name: str, injected: Path) -> None:
    """The oracle of the other configuration says the same; taken out, every bit is as it was."""
    with np.load(injected / f"{name}.npz") as said:
        assert np.array_equal(said["right"], said["after"])
        for field, truth in truths(name)[1].items():
            assert np.sqrt(np.mean((said[field] - truth) ** 2)) / truth.std() < 2e-5, field


@pytest.mark.parametrize("name", embedded.NAMES)
def test_every_field_that_an_architecture_reads_is_a_fault_or_cannot_be_ignored(name: str) -> None:
    """Against the record of what was read, which knows nothing of faults."""
    config = embedded.config(name)
    _, fields = architecture_of(config).declared(config)
    told = {*ignoring(config), *unloadable(config)}
    rotary = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor"}
    unset = {key for key, field in fields.read.items() if field.value is None and field.default is None}
    unset |= {key for key, field in fields.read.items() if field.kind in ("words", "layers") and not field.value}
    assert fields.read.keys() - rotary - told <= unset
    for field in ignoring(config):
        assert f"ignores_{field.replace('.', '_')}" in CATALOGUE


def test_the_fields_of_the_odd_llama() -> None:
    assert set(ignoring(embedded.config("llama-odd"))) == {
        "num_hidden_layers", "rms_norm_eps", "attention_bias", "mlp_bias", "hidden_act", "rope.rope_type",
        "rope.rope_theta", "rope.factor", "rope.low_freq_factor", "rope.high_freq_factor",
        "rope.original_max_position_embeddings",
    }  # fmt: skip
    assert "head_dim" in unloadable(embedded.config("llama-odd"))


def test_a_field_that_is_added_to_a_declaration_becomes_a_fault() -> None:
    config = embedded.config("llama-odd")
    assert "logit_scale" not in ignoring(config)
    granite = config | {"model_type": "granite", "logits_scaling": 3.0, "residual_multiplier": 0.5}
    assert {"logits_scaling", "residual_multiplier"} <= ignoring(granite).keys()
    assert ignoring(granite)["logits_scaling"]["logits_scaling"] == 1.0, "the default of its declaration"


def test_both_rotary_spellings_change_together() -> None:
    changed = ignoring(embedded.config("llama-odd"))["rope.factor"]
    for rope in (changed["rope_parameters"], changed["rope_scaling"]):
        assert rope["factor"] == 4.0
    plain = ignoring(embedded.config("llama-odd"))["rope.rope_type"]
    assert (plain["rope_scaling"], plain["rope_parameters"]) == (None, {"rope_type": "default", "rope_theta": 5e5})
    assert ignoring(embedded.config("llama-odd"))["rope.rope_theta"]["rope_theta"] == 10000.0


@pytest.mark.heavy
def test_every_ignored_field_of_the_odd_llama_is_found(tmp_path: Path) -> None:
    store = tmp_path / "cells.jsonl"
    names = [
        name for name, one in CATALOGUE.items() if one.group == ignored_fields.GROUP and "llama" in one.architectures
    ]
    done = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "faults", "matrix", "--models", "llama-odd", "--dtypes", "fp32",
         "--engines", "transformers:1", "--store", str(store), "--faults", ",".join(["honest", *names])],
        cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    matrix = FaultMatrix(Store(store).cells.values())
    judged = {json.loads(line)["fault"] for line in store.read_text().splitlines()}
    assert {f"ignores_{field.replace('.', '_')}" for field in ignoring(embedded.config("llama-odd"))} <= judged
    assert not matrix.survivors()
    assert not matrix.false_alarms()
