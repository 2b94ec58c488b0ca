"""Mixtures of experts that quantise activations: the torch of their tolerances is the NumPy that bounds them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.conformance import emulation as emulations
from genqual.conformance.emulation import emulation
from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.registry import oracle_for
from genqual.models import weights
from genqual.models.declared_inputs import declared
from genqual.models.registry import resolve
from tests.conformance.oracle.small import SMALL, parameters
from tests.models.quantised.asking import peer_logits

ROW = [5, 9, 2, 40, 33, 7, 11, 60]
NAMES = ("qwen3_moe", "deepseek_v3")
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}


def checkpoint(target: Path, name: str) -> Path:
    """A small checkpoint whose projections are E4M3 with one scale, as published mixtures name their experts."""
    config, header, body = dict(SMALL[name]), {}, b""
    for key, values in parameters(config).items():
        narrow = np.asarray(values, dtype=np.float32)
        pieces = {key: ("F32", narrow.astype("<f4").tobytes(), list(narrow.shape))}
        if key.endswith("_proj.weight"):
            scale = float(np.abs(narrow).max()) / 448
            # The bits of a float32 cut to three of the fraction, with the exponent's bias of E4M3; the least become 0.
            bits = (np.abs(narrow) / np.float32(scale)).astype("<f4").view("<u4") >> 20
            codes = np.where(bits < (121 << 3), 0, bits - (120 << 3)) | (np.signbit(narrow) << 7)
            pieces[key] = ("F8_E4M3", codes.astype(np.uint8).tobytes(), list(narrow.shape))
            pieces[f"{key}_scale_inv"] = ("F32", np.array(scale, "<f4").tobytes(), [])
        for piece, (dtype, raw, shape) in pieces.items():
            where = [len(body), len(body) + len(raw)]
            header[piece] = {"dtype": dtype, "shape": shape, "data_offsets": where}
            body += raw
    header["__metadata__"] = {"format": "pt"}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    target.mkdir()
    (target / "model.safetensors").write_bytes(len(said).to_bytes(8, "little") + said + body)
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": FP8}))
    return target


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Logits of each, in torch, with activations rounded as it declares and float32 else."""
    room = tmp_path_factory.mktemp("experts")
    places = {name: checkpoint(room / name, name) for name in NAMES}
    asked = {"dtype": "fp8", "arithmetic": "fp32", "rows": [ROW], "forced": [[1]]}
    found = peer_logits(room, [asked | {"path": str(place)} for place in places.values()])
    return {name: (place, logits[0, 0]) for (name, place), logits in zip(places.items(), found, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_experts_and_latent_attention_are_rounded_alike(
    name: str, said: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, found = said[name]
    spec = resolve(str(place))
    config, state, inputs = weights.config(spec), weights.read(spec), declared(spec)
    assert {"experts" in one for one in inputs} == {True, False}

    def unrounded(x: F64) -> F64:
        return np.asarray(x, dtype=np.float64)

    monkeypatch.setattr(emulations, "ACTIVATIONS", {"bf16": unrounded})
    ours = emulation(config, state, "fp8", inputs).logits(ROW)[-1]
    exact = oracle_for(config, state).logits(ROW)[-1]
    spread = exact.std()
    assert np.sqrt(((found - ours) ** 2).mean()) / spread < 1e-5
    assert np.sqrt(((found - exact) ** 2).mean()) / spread > 1e-2
    for part in ("experts", "kv_b_proj"):  # each is heard
        rest = {one: how for one, how in inputs.items() if part not in one}
        other = emulation(config, state, "fp8", rest).logits(ROW)[-1]
        assert len(rest) == len(inputs) or np.sqrt(((found - other) ** 2).mean()) / spread > 1e-3, part


REFUSED = """
import sys, torch
from dataclasses import replace
from genqual.engines.hf import expert_rounding
from genqual.errors import Unsupported
from genqual.models.declared_inputs import declared
from genqual.models.load import load
from genqual.models.registry import resolve

spec = resolve(sys.argv[1])
inputs = declared(spec)
odd = "model.layers.1.mlp.experts.1.up_proj"
less = {name: how for name, how in inputs.items() if name != odd}
for said in (less, inputs | {odd: replace(inputs[odd], powers=True)}):
    try:
        expert_rounding.apply(load(spec, torch.float32), said, "fp8")
    except Unsupported as reason:
        print(reason)
"""


def test_experts_that_are_not_all_rounded_alike_are_refused(said: dict[str, tuple[Path, Any]]) -> None:
    command = [sys.executable, "-W", "ignore", "-c", REFUSED, str(said["qwen3_moe"][0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    missing, different = [line for line in done.stdout.splitlines() if line.startswith("fp8: of the experts of model")]
    assert " say in 1 ways how what enters gate_up_proj is rounded" in missing
    assert " say in 2 ways how what enters gate_up_proj is rounded" in different
    assert "nothing here rounds that expert by expert; judge this checkpoint in bf16" in different
