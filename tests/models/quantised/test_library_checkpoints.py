"""Checkpoints that the formats' own libraries wrote are dequantised to the bit as those libraries dequantise them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.conformance.oracle.registry import oracle_for, parameters_of
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.dense import dense
from genqual.models.narrow_floats import F32
from genqual.models.quantised.checkpoint import Dequantised
from genqual.models.registry import resolve
from tests.models.quantised.changing import CHECKPOINTS, NAMES, changed

ROW = [5, 77, 130, 9, 200, 41, 33, 18]


def to_bf16(values: F32) -> F32:
    """Rounded to the nearest, ties to even, as bf16 rounds."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_what_its_library_makes_of_it(name: str) -> None:
    """`expected.json` holds the hash of what the library itself dequantised; see make_checkpoints.py."""
    said = json.loads((CHECKPOINTS / name / "expected.json").read_text())
    read = weights.read(resolve(str(CHECKPOINTS / name)))
    for weight, expected in said["sha256"].items():
        ours = to_bf16(read[weight]) if said["rounded_to"] == "bf16" else read[weight]
        unsigned = np.ascontiguousarray(ours + np.float32(0), dtype="<f4")
        assert hashlib.sha256(unsigned.tobytes()).hexdigest() == expected, weight
    assert not {
        weight for weight in read if weight.endswith(("_scale", "_zero_point", ".scales", ".qzeros", "_blocks"))
    }


@pytest.mark.parametrize("name", NAMES)
def test_one_scale_off_by_two_changes_what_the_oracle_says(name: str, tmp_path: Path) -> None:
    spec, with_fault = resolve(str(CHECKPOINTS / name)), resolve(str(changed(name, tmp_path / name)))
    right, wrong = (oracle_for(weights.config(one), weights.read(one)).logits(ROW) for one in (spec, with_fault))
    apart = np.sqrt(np.mean((right - wrong) ** 2)) / right.std()
    # bf16 itself is within 0.03 of the oracle on these models; one block of 7 matrices is to be seen beyond fp32.
    assert apart > 1e-3, f"nrms {apart:.2g}"
    assert weights.sha256(spec) != weights.sha256(with_fault)


@pytest.mark.parametrize("name", NAMES)
def test_counts_and_rows_are_those_of_the_dequantised_model(name: str) -> None:
    spec = resolve(str(CHECKPOINTS / name))
    read, lazy = weights.read(spec), weights.lazily(spec)
    assert isinstance(lazy, Dequantised)
    assert weights.shapes(spec) == {weight: values.shape for weight, values in read.items()}
    assert weights.count(spec) == sum(values.size for values in read.values())
    assert weights.count(spec) == parameters_of(weights.config(spec), lazy)
    for weight, values in read.items():
        assert np.array_equal(lazy.rows(weight, values.shape, 1, 3), values[1:3])
        with pytest.raises(BadInput, match="the configuration wants"):
            lazy.rows(weight, (*values.shape, 1), 0, 1)


def test_the_hash_is_of_what_is_stored_and_of_how_it_is_read(tmp_path: Path) -> None:
    """Two sections that read the same bytes in two ways are two models; another file of the same content is one."""

    def second_format(config: dict[str, Any]) -> None:
        config["quantization_config"]["checkpoint_format"] = "gptq_v2"

    one = resolve(str(CHECKPOINTS / "gptq-4bit"))
    same = resolve(str(changed("gptq-4bit", tmp_path / "same", halved=False)))
    other = resolve(str(changed("gptq-4bit", tmp_path / "other", halved=False, config=second_format)))
    assert weights.sha256(one) == weights.sha256(same)
    assert weights.sha256(one) != weights.sha256(other)


def test_a_format_that_is_not_known_has_a_hash_too(tmp_path: Path) -> None:
    def unknown(config: dict[str, Any]) -> None:
        config["quantization_config"] = {"quant_method": "hqq", "bits": 4}

    spec = resolve(str(changed("awq", tmp_path / "hqq", halved=False, config=unknown)))
    assert len(weights.sha256(spec)) == 64
    assert "quantization_config" in weights.config(spec)
    for ask in (weights.lazily, weights.read, weights.count):
        with pytest.raises(BadInput, match=r"'hqq' is not dequantised here.*--by transformers"):
            ask(spec)


@pytest.mark.parametrize("name", ["awq", "gptq-3bit", "nvfp4", "ct-int4-asymmetric", "bnb-nf4-nested"])
def test_what_transformers_cannot_widen_is_written_out_once(name: str) -> None:
    spec = resolve(str(CHECKPOINTS / name))
    written = dense(spec)
    assert written.location != spec.location
    assert dense(spec) == written
    assert "quantization_config" not in json.loads((Path(written.location) / "config.json").read_text())
    ours, there = weights.read(spec), weights.read(written)
    assert ours.keys() == there.keys()
    assert all(np.array_equal(ours[weight], there[weight]) for weight in ours)


def test_what_is_written_out_is_of_the_configuration_too(tmp_path: Path) -> None:
    """The weights' hash does not have it: the copy of the same weights turned positions by the former base."""
    places = [changed("awq", tmp_path / name / "m", halved=False) for name in ("one", "two")]
    described = json.loads((places[1] / "config.json").read_text()) | {"rope_theta": 77777.0}
    described.pop("rope_parameters", None)
    (places[1] / "config.json").write_text(json.dumps(described))
    first, second = (resolve(str(place)) for place in places)
    assert weights.sha256(first) == weights.sha256(second)
    written = [json.loads((Path(dense(spec).location) / "config.json").read_text()) for spec in (first, second)]
    assert written[1]["rope_theta"] == 77777.0 != written[0].get("rope_theta")
