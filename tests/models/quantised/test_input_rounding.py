"""How activations are rounded as a stored checkpoint declares: read off it, and alike in NumPy and in torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.conformance.emulation import emulation
from genqual.conformance.rounding import stored_rounding
from genqual.errors import BadInput
from genqual.models import declared_inputs, weights
from genqual.models.declared_inputs import declared
from genqual.models.dense import dense
from genqual.models.quantised.inputs import InputRounding
from genqual.models.quantised.registry import inputs_of
from genqual.models.registry import resolve
from tests.models.quantised.changing import CHECKPOINTS, changed
from tests.models.quantised.test_refusals import DYNAMIC, LINEAR, compressed

KINDS = (
    InputRounding("int8", "token"),
    InputRounding("int8", "tensor"),
    InputRounding("int8", "group", 16),
    InputRounding("int8", "tensor", static=True, scale=0.02),
    InputRounding("e4m3", "token"),
    InputRounding("e4m3", "token", powers=True),
    InputRounding("e4m3", "group", 16),
    InputRounding("e4m3", "group", 16, powers=True),
    InputRounding("e4m3", "tensor", static=True, scale=0.003),
)


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        ({"quant_method": "fp8"}, InputRounding("e4m3", "token")),
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, InputRounding("e4m3", "group", 128)),
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"},
            InputRounding("e4m3", "group", 128, powers=True),
        ),
        ({"quant_method": "fp8", "activation_scheme": "static"}, InputRounding("e4m3", "tensor", static=True)),
        (compressed(LINEAR | {"input_activations": DYNAMIC}), InputRounding("int8", "token")),
        (
            compressed(LINEAR | {"input_activations": {"num_bits": 8, "type": "float", "dynamic": False}}),
            InputRounding("e4m3", "tensor", static=True),
        ),
        (
            compressed(LINEAR | {"input_activations": {"num_bits": 8, "group_size": 64, "dynamic": True}}),
            InputRounding("int8", "group", 64),
        ),
    ],
    ids=str,
)
def test_what_a_section_declares(section: dict[str, Any], wanted: InputRounding) -> None:
    assert inputs_of({"quantization_config": section}) == (wanted,)


@pytest.mark.parametrize("section", [compressed(LINEAR), {"quant_method": "gptq", "bits": 4}, {"quant_method": "hqq"}])
def test_what_declares_nothing(section: dict[str, Any]) -> None:
    assert inputs_of({"quantization_config": section}) == ()


ASK = """
import json, sys, torch
from genqual.engines.hf.input_rounding import rounded
from genqual.models.quantised.inputs import InputRounding
values, kinds = json.loads(sys.stdin.read())
x = torch.tensor(values)
print(json.dumps([rounded(x, InputRounding.from_json(kind)).tolist() for kind in kinds]))
"""


def test_torch_rounds_what_numpy_rounds() -> None:
    """Rows of very different sizes, an outlier beyond the static scales, and a last group that is cut."""
    x = (np.random.default_rng(5).standard_normal((6, 40)) * np.logspace(-3, 1, 6)[:, None]).astype(np.float32)
    asked = json.dumps([x.tolist(), [kind.as_json() for kind in KINDS]])
    done = subprocess.run([sys.executable, "-c", ASK], input=asked, capture_output=True, text=True, check=True)
    wide = x.astype(np.float64)
    rounded = [stored_rounding(kind)(wide) for kind in KINDS]
    for kind, ours, theirs in zip(KINDS, rounded, json.loads(done.stdout), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-9, err_msg=str(kind))
        assert not np.array_equal(ours, wide)
    # Powers of two leave the digits of e4m3 as they are, whoever shares them: those of a token and of a group agree.
    assert len({one.tobytes() for one in rounded}) == len(KINDS) - 1


def test_each_rounds_as_it_says() -> None:
    x = np.array([[1.0, -0.5, 0.126, 64.0], [0.01, 0.02, 0.0, -0.03]])
    by_token = stored_rounding(InputRounding("int8", "token"))(x)
    np.testing.assert_allclose(by_token[0], np.array([2, -1, 0, 127]) * 64 / 127)
    np.testing.assert_allclose(by_token[1], np.array([42, 85, 0, -127]) * 0.03 / 127)
    assert not stored_rounding(InputRounding("int8", "tensor"))(x)[1].any()  # all below half a step of the other row's
    pairs = stored_rounding(InputRounding("int8", "group", 2))(x)
    np.testing.assert_allclose(pairs[0], [1.0, -64 / 127, 0.0, 64.0])
    clipped = stored_rounding(InputRounding("int8", "tensor", static=True, scale=0.25))(x)
    np.testing.assert_allclose(clipped[0], [1.0, -0.5, 0.25, 127 * 0.25])
    # 64 / 448 is 1/7, and the next power of two 1/4: 256 of the grid, whose least step is 2^-9.
    powers = stored_rounding(InputRounding("e4m3", "token", powers=True))(x)
    np.testing.assert_allclose(powers[0], [1.0, -0.5, 0.125, 64.0])


@pytest.mark.parametrize(
    "wrong",
    [
        ("int4", "token", 0, False),
        ("int8", "channel", 0, False),
        ("int8", "group", 0, False),
        ("int8", "token", 8, False),
        ("e4m3", "token", 0, True),
    ],
)
def test_a_rounding_that_cannot_be_is_none(wrong: tuple[str, str, int, bool]) -> None:
    grid, shared, size, static = wrong
    with pytest.raises(ValueError, match=r"rounding|static"):
        InputRounding(grid, shared, size, static=static)


STATIC = {"activation_scheme": "static"}


def static(target: Path, piece: str, scale: float = 0.05, count: int = 1) -> Path:
    """fp8-tensor with `count` scales stored for what enters each layer, under the name `piece`."""
    changed("fp8-tensor", target, halved=False, config=lambda said: said["quantization_config"].update(STATIC))
    raw = (target / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    for name in [name for name in header if name.endswith("weight_scale_inv")]:
        values = np.full(count, scale, dtype="<f4").tobytes()
        where = [len(data), len(data) + len(values)]
        shape = [] if count == 1 else [count]
        header[name.replace("weight_scale_inv", piece)] = {"dtype": "F32", "shape": shape, "data_offsets": where}
        data += values
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    (target / "model.safetensors").write_bytes(len(said).to_bytes(8, "little") + said + data)
    return target


@pytest.mark.parametrize("piece", ["activation_scale", "input_scale"])
def test_a_static_scale_is_read_off_its_layer_and_is_no_weight(piece: str, tmp_path: Path) -> None:
    plain, spec = resolve(str(CHECKPOINTS / "fp8-tensor")), resolve(str(static(tmp_path / "m", piece)))
    found = declared(spec)
    assert set(found.values()) == {InputRounding("e4m3", "tensor", static=True, scale=float(np.float32(0.05)))}
    ours, theirs = weights.read(spec), weights.read(plain)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert {f"{module}.{piece}" for module in found} == weights.left_aside(spec)


@pytest.mark.parametrize(
    ("piece", "scale", "count", "told"),
    [
        ("other_scale", 0.05, 1, r"activation_scheme is static, and there is no model.*_proj\.activation_scale"),
        ("input_scale", 0.0, 1, r"_proj\.input_scale is 0\.0: a scale is positive"),
        ("input_scale", np.inf, 1, r"_proj\.input_scale is inf: a scale is positive"),
        ("input_scale", 0.05, 2, r"_proj\.input_scale has shape \(2,\): one scale"),
    ],
)
def test_a_static_scale_that_is_none_is_refused(
    piece: str, scale: float, count: int, told: str, tmp_path: Path
) -> None:
    spec = resolve(str(static(tmp_path / "m", piece, scale, count)))
    with pytest.raises(BadInput, match=told):
        declared(spec)


def test_a_dequantised_copy_keeps_the_declaration() -> None:
    for name in ("ct-w8a8-fp8-static", "ct-w8a8-int8", "ct-w8a8-fp8-groups"):
        spec = resolve(str(CHECKPOINTS / name))
        copy = dense(spec)
        assert copy != spec
        assert declared(copy) == declared(spec) != {}
        assert weights.left_aside(copy) == frozenset()
    weight_only = dense(resolve(str(CHECKPOINTS / "awq")))
    assert not (Path(weight_only.location) / declared_inputs.FILE).exists()
    assert declared(weight_only) == {}
    assert declared(resolve("llama-tiny")) == {}


def test_a_layer_that_drafts_tokens_declares_nothing(tmp_path: Path) -> None:
    """As DeepSeek-V3 stores it: behind the last layer, left aside by the oracle and by loaders."""
    spec = resolve(str(changed("fp8-block", tmp_path / "m", halved=False, config=_drafts)))
    assert declared(resolve(str(CHECKPOINTS / "fp8-block")))
    assert declared(spec) == {}


def _drafts(config: dict[str, Any]) -> None:
    config.update(num_hidden_layers=0, num_nextn_predict_layers=1)


def test_modules_are_named_as_the_checkpoint_names_them_and_the_oracle_must_have_them() -> None:
    spec = resolve(str(CHECKPOINTS / "ct-w8a8-int8"))
    config, state, inputs = weights.config(spec), weights.read(spec), declared(spec)
    bare = {name.removeprefix("model."): how for name, how in inputs.items()}  # as the base model stores them
    said = emulation(config, state, "int8-dynamic", bare).logits([3, 4, 5])
    assert np.array_equal(said, emulation(config, state, "int8-dynamic", inputs).logits([3, 4, 5]))
    one = {name: how for name, how in inputs.items() if name.endswith("up_proj")}
    assert not np.array_equal(said, emulation(config, state, "int8-dynamic", one).logits([3, 4, 5]))
    inputs["lm_head"] = inputs["model.layers.0.mlp.up_proj"]
    with pytest.raises(BadInput, match="lm_head quantises what enters it, and is not a linear layer"):
        emulation(config, state, "int8-dynamic", inputs)


LOAD = """
import json, sys, torch
from genqual.engines.base import LoadRequest
from genqual.engines.hf import input_rounding
from genqual.errors import Unsupported
from genqual.models import weights
from genqual.models.load import load, state_hash
from genqual.models.registry import resolve

static, groups, experts = map(resolve, sys.argv[1:])
found = {"static": state_hash(load(static, torch.float32)) == weights.hash_state(weights.read(static).items())}

def refused(ask):
    try:
        return str(ask())
    except Unsupported as reason:
        return str(reason)

def request(spec, dtype, device="cpu", **options):
    return LoadRequest(spec, dtype, device, 0, 1, 0, 1, 1, options)

found["bf16"] = refused(lambda: input_rounding.of_request(request(groups, "bf16")))
found["int8-dynamic"] = refused(lambda: input_rounding.of_request(request(groups, "int8-dynamic")))
found["cuda"] = refused(lambda: input_rounding.of_request(request(groups, "fp8", "cuda")))
found["emulated"] = len(input_rounding.of_request(request(groups, "fp8", "cuda", emulate=True)))
model = load(experts, torch.float32)
inputs = {"model.layers.0.mlp.experts.0.down_proj": input_rounding.InputRounding("int8", "token")}
found["experts"] = refused(lambda: input_rounding.apply(model, inputs, "int8-dynamic"))
print(json.dumps(found))
"""


def test_what_an_engine_of_transformers_runs_of_it_and_what_not(tmp_path: Path) -> None:
    """It widens a static fp8 checkpoint to the weights that the oracle has; the rest is refused by name."""
    spec = static(tmp_path / "m", "activation_scale")
    names = [str(spec), str(CHECKPOINTS / "fp8-block"), str(CHECKPOINTS / "mxfp4")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, *names], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["static"] is True
    assert found["bf16"] == "{}"
    assert "to e4m3 at run time, which is not int8-dynamic; declare it as it is: --dtype fp8" in found["int8-dynamic"]
    assert "its own fp8 does not run on cuda here" in found["cuda"]
    assert found["emulated"] == 7
    assert "experts.0.down_proj quantises what enters it" in found["experts"]
    assert "judge this checkpoint in bf16" in found["experts"]
