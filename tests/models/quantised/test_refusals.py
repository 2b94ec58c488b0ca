"""What cannot be dequantised, or is not all that the file declares, is refused by name, with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.cases import PRECISIONS
from genqual.conformance.oracle.registry import oracle_for
from genqual.errors import BadInput, Unsupported
from genqual.models import weights
from genqual.models.quantised.registry import FORMATS, check_activations, scheme_of
from genqual.models.registry import resolve
from tests.models.quantised.changing import CHECKPOINTS, changed

LINEAR: dict[str, Any] = {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}
DYNAMIC: dict[str, Any] = {"num_bits": 8, "strategy": "token", "dynamic": True}


def compressed(group: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A section of compressed-tensors with one group."""
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "format": "naive-quantized",
        **more,
    }


def inputs(**changes: Any) -> dict[str, Any]:
    """A section whose group quantises activations by token, but for `changes`."""
    return compressed(LINEAR | {"input_activations": DYNAMIC | changes})


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (inputs(num_bits=4), "input_activations: 4 bits: activations are quantised at run time in a way"),
        (inputs(symmetric=False), r"input_activations: zero points \(symmetric = false\): activations are"),
        (inputs(dynamic=False), "input_activations: a static scale for each token: activations are"),
        (inputs(dynamic="local", strategy="tensor_group"), "input_activations.dynamic = 'local': true or false"),
        (inputs(strategy="channel"), "strategy = 'channel': genqual reads token, tensor, group only"),
        (inputs(strategy="group"), "strategy 'group' with group_size 0"),
        (inputs(scale_dtype="torch.uint8"), "input_activations.scale_dtype = torch.uint8: activations are"),
        (inputs(turns=3), "turns = 3: genqual does not know"),
        (compressed(LINEAR | {"output_activations": DYNAMIC}), "output_activations.*at run time"),
        (
            compressed(LINEAR, kv_cache_scheme=DYNAMIC),
            "kv_cache_scheme, where num_bits, strategy, dynamic is set, a quantised cache",
        ),
        (compressed(LINEAR, transform_config={"a": 1}), "transform_config.*rotations"),
        (compressed(LINEAR, sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config.format"),
        (compressed(LINEAR, format="marlin-24"), "'marlin-24'.*pack-quantized"),
        (compressed({"targets": ["Linear"]}), "weights is not set"),
        (compressed(LINEAR | {"weights": {"num_bits": 4}}), "naive-quantized holds 8 bits, it says 4"),
        (compressed(LINEAR, turns=3), "turns = 3: genqual does not know"),
        ({"quant_method": "compressed-tensors"}, "no config_groups"),
        ({"quant_method": "fp8", "activation_scheme": "token"}, "activation_scheme = 'token': genqual reads dynamic"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size.*two positive integers"),
        ({"quant_method": "gptq", "bits": 5}, "bits = 5"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'.*gptq_v2"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*": {"bits": 8}}}, "dynamic.*rules by module"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'.*gemm only"),
        ({"quant_method": "awq", "bits": 4, "zero_point": False}, "zero_point = false"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo = 'NVFP4': activations are quantised"),
        (
            {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "kv_cache_quant_algo": "FP8"},
            "kv_cache_quant_algo",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            "load_in_8bit: activations are quantised at run time",
        ),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit is true"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
            "bnb_4bit_quant_storage = 'bfloat16': genqual reads uint8 only",
        ),
        (
            {"quant_method": "hqq"},
            r"'hqq' is not dequantised here \(known: awq, bitsandbytes, compressed-tensors, fp8, gptq, modelopt, mxfp4",
        ),
        ({"bits": 4}, "quant_method None"),
        ("int8", "a mapping is wanted"),
    ],
)
def test_sections_that_are_refused(section: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        scheme_of({"quantization_config": section})


@pytest.mark.parametrize("length", [100, 120, 121, 500])
def test_a_long_value_is_cut_with_a_sign_of_it(length: int) -> None:
    with pytest.raises(BadInput, match="kv_cache_scheme") as told:
        scheme_of({"quantization_config": compressed(LINEAR, kv_cache_scheme="k" * length)})
    said = str(told.value)
    assert f"= {'k' * length}: a quantised" in said if length <= 120 else f"= {'k' * 116} ...: a quantised" in said


def test_scales_in_blocks_without_a_block_size_say_which_field_is_missing(tmp_path: Path) -> None:
    def forgotten(config: dict[str, Any]) -> None:
        del config["quantization_config"]["weight_block_size"]

    spec = resolve(str(changed("fp8-block", tmp_path / "m", halved=False, config=forgotten)))
    with pytest.raises(BadInput, match=r"weight_scale_inv has shape .*weight_block_size is not set"):
        weights.read(spec)


def test_every_format_names_a_field_that_it_does_not_know() -> None:
    least: dict[str, dict[str, Any]] = {
        "compressed-tensors": {"config_groups": {"a": LINEAR}, "format": "naive-quantized"},
        **{"gptq": {"bits": 4}, "modelopt": {"quant_algo": "W4A16_NVFP4"}, "bitsandbytes": {"load_in_4bit": True}},
    }
    for method in FORMATS:
        section = {"quant_method": method, **least.get(method, {})}
        assert scheme_of({"quantization_config": section}) is not None
        with pytest.raises(BadInput, match="turned_by = 3: genqual does not know"):
            scheme_of({"quantization_config": section | {"turned_by": 3}})


def _without(name: str, ending: str, target: Path) -> Path:
    """A copy without the first tensor that ends so: its name in the header is another's."""
    made = changed(name, target, halved=False)
    raw = (made / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    gone = next(tensor for tensor in sorted(header) if tensor.endswith(ending))
    del header[gone]
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (length - len(said))
    (made / "model.safetensors").write_bytes(raw[:8] + said + raw[8 + length :])
    return made


@pytest.mark.parametrize(
    ("name", "ending", "told"),
    [
        ("fp8-block", "_scale_inv", "is F8_E4M3 without"),
        ("gptq-4bit", ".scales", r"without .*\.scales beside it"),
        ("awq", ".qzeros", r"without .*\.qzeros beside it"),
        ("mxfp4", "_scales", "without .*_scales beside it"),
        ("nvfp4", ".weight_scale", r"without .*\.weight_scale beside it"),
        ("ct-int4-asymmetric", ".weight_zero_point", "its group is not symmetric"),
        ("ct-int4-group", ".weight_scale", "pack-quantized, which wants"),
        ("ct-nvfp4", ".weight_global_scale", "no weight_global_scale"),
    ],
)
def test_a_piece_that_is_not_there_is_named(name: str, ending: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=told):
        weights.read(resolve(str(_without(name, ending, tmp_path / "m"))))


def test_integers_without_a_section_are_no_weights(tmp_path: Path) -> None:
    """The section is lost: what is left is names that no architecture has, and integers that nothing explains."""
    spec = resolve(
        str(changed("awq", tmp_path / "m", halved=False, config=lambda said: said.pop("quantization_config")))
    )
    with pytest.raises(BadInput, match=r"is I32.*quantization_config.*unquantised"):
        weights.read(spec)


def test_block_sizes_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    def wider(config: dict[str, Any]) -> None:
        config["quantization_config"]["weight_block_size"] = [128, 128]

    spec = resolve(str(changed("fp8-block", tmp_path / "m", halved=False, config=wider)))
    with pytest.raises(BadInput, match=r"weight_scale_inv has shape \(6, 4\).*a single scale or \(1, 1\)|has shape"):
        weights.read(spec)


@pytest.mark.parametrize(
    ("name", "right", "grid"),
    [("fp8-block", "fp8", "e4m3"), ("ct-w8a8-fp8-static", "fp8", "e4m3"), ("ct-w8a8-int8", "int8-dynamic", "int8")],
)
def test_an_engine_that_nobody_can_look_into_is_judged_in_the_precision_that_the_file_declares(
    name: str, right: str, grid: str
) -> None:
    config = json.loads((CHECKPOINTS / name / "config.json").read_text())
    check_activations(config, "m", right)
    for precision in {*PRECISIONS} - {right}:
        with pytest.raises(
            Unsupported, match=rf"to {grid} at run time, which is not {precision};.*--dtype {right}"
        ) as told:
            check_activations(config, "m", precision)
        assert f"`genqual reference DIRECTORY --schemes {right}` makes" in str(told.value)


def test_where_activations_stay_as_they_are_every_precision_is_judged() -> None:
    for name in ("awq", "gptq-4bit", "mxfp4", "ct-int8-channel"):
        for precision in PRECISIONS:
            check_activations(json.loads((CHECKPOINTS / name / "config.json").read_text()), "m", precision)


def test_layers_of_two_grids_and_scales_of_a_whole_pass_are_judged_as_their_weights_only() -> None:
    by_tensor = {"quantization_config": inputs(strategy="tensor")}
    section = inputs()
    section["config_groups"]["group_1"] = LINEAR | {"input_activations": DYNAMIC | {"type": "float"}}
    for precision in ("fp8", "int8-dynamic", "bf16"):
        with pytest.raises(Unsupported, match="some of its layers quantise activations to e4m3, others to int8"):
            check_activations({"quantization_config": section}, "m", precision)
        with pytest.raises(Unsupported, match=r"one scale for all that enters a layer at once.*judge it in bf16"):
            check_activations(by_tensor, "m", precision)


def test_the_oracle_still_refuses_a_config_whose_section_nobody_undid() -> None:
    spec = resolve(str(CHECKPOINTS / "fp8-block"))
    with pytest.raises(BadInput, match="this checkpoint is quantised"):
        oracle_for(json.loads((CHECKPOINTS / "fp8-block" / "config.json").read_text()), weights.read(spec))


LOAD = """
import json, sys, torch
from pathlib import Path
from genqual.errors import Unsupported
from genqual.models.load import load, state_hash
from genqual.models.registry import resolve
from genqual.models import weights
found = {}
for place in sys.argv[1:]:
    spec = resolve(place)
    try:
        model = load(spec, torch.float32)
        found[spec.name] = state_hash(model) == weights.hash_state(weights.read(spec).items())
        for dtype in (torch.float16, torch.bfloat16):
            kinds = {p.dtype for p in load(spec, dtype).parameters()} - {torch.float32}
            found[spec.name] = found[spec.name] and kinds == {dtype}
    except Unsupported as reason:
        found[spec.name] = str(reason)
print(json.dumps(found))
"""


def test_transformers_loads_the_model_that_the_oracle_computes_or_is_unsupported_by_name() -> None:
    """It widens by its own code: its fp32 parameters hash as ours do, so every weight is equal to the bit."""
    names = ("fp8-block", "fp8-tensor", "fp8-ue8m0", "mxfp4", "gptq-4bit", "awq", "nvfp4")
    command = [sys.executable, "-W", "ignore", "-c", LOAD, *(str(CHECKPOINTS / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: found[name] for name in names[:4]} == dict.fromkeys(names[:4], True)
    for name, method in (("gptq-4bit", "gptq"), ("awq", "awq"), ("nvfp4", "modelopt")):
        assert f"does not widen {method} weights on load" in found[name]
