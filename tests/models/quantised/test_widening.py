"""What transformers, or the package that it widens by, makes another model of is unsupported, and never judged.

Its tolerances are measured on a dequantised copy.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.cli import main
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.declared_inputs import declared
from genqual.models.dense import dense, unwidened
from genqual.models.quantised.base import Tensor
from genqual.models.quantised.compressed_tensors import CompressedTensors
from genqual.models.quantised.registry import scheme_of
from genqual.models.registry import resolve
from tests.models.quantised.changing import CHECKPOINTS, changed
from tests.models.quantised.test_refusals import LINEAR, compressed


def rewritten(directory: Path, change: Any) -> Path:
    """`directory` whose header is what `change` makes of it; `change(header, data)` returns the data."""
    raw = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    data = change(header, bytearray(raw[8 + length :]))
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    (directory / "model.safetensors").write_bytes(len(said).to_bytes(8, "little") + said + data)
    return directory


def _cut(header: dict[str, Any], data: bytearray) -> bytearray:
    """Blocks of 40 rows and columns, of 64 and 96: two and three of them, the last one cut."""
    for name in [name for name in header if name.endswith("_scale_inv")]:
        rows, columns = header[name.removesuffix("_scale_inv")]["shape"]
        shape = [-(-rows // 40), -(-columns // 40)]
        values = np.full(shape, 0.01, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    return data


def _renamed(header: dict[str, Any], data: bytearray) -> bytearray:
    for name in [name for name in header if name.endswith("_scale_inv")]:
        header[name.removesuffix("_inv")] = header.pop(name)
    return data


def cut_blocks(target: Path) -> Path:
    """fp8-block with blocks that do not divide its weights, as DeepSeek-V3's 576 rows in blocks of 128."""

    def wide(config: dict[str, Any]) -> None:
        config["quantization_config"]["weight_block_size"] = [40, 40]

    return rewritten(changed("fp8-block", target, halved=False, config=wide), _cut)


def old_names(target: Path) -> Path:
    """fp8-tensor with `weight_scale`, as others than transformers call it."""
    return rewritten(changed("fp8-tensor", target, halved=False), _renamed)


def _foreign(config: dict[str, Any]) -> None:
    config["quantization_config"]["not_of_ours"] = 1


LOAD = """
import sys, torch
from genqual.errors import Unsupported
from genqual.models.load_quantised import widening
from genqual.models.registry import resolve
for place in sys.argv[1:]:
    try:
        print("widens", list(widening(resolve(place), torch.float32)))
    except Unsupported as reason:
        print(reason)
"""


def test_what_transformers_would_make_another_model_of_is_unsupported_and_has_a_dequantised_copy(
    tmp_path: Path,
) -> None:
    cut, old = resolve(str(cut_blocks(tmp_path / "cut"))), resolve(str(old_names(tmp_path / "old")))
    whole = resolve(str(CHECKPOINTS / "fp8-block"))
    told = (r"spreads model\.\S+_scale_inv evenly over \(", "knows _scale_inv alone")
    for spec, why in ((cut, told[0]), (old, told[1])):
        copy = dense(spec)
        assert copy != spec
        assert declared(copy) == declared(spec) != {}
        ours, theirs = weights.read(spec), weights.read(copy)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        assert re.search(why, unwidened(spec) or "")
    assert (dense(whole), unwidened(whole)) == (whole, None)
    foreign = changed("fp8-block", tmp_path / "foreign", halved=False, config=_foreign)
    places = [*(one.location for one in (cut, old, whole)), str(foreign)]
    command = [sys.executable, "-W", "ignore", "-c", LOAD, *places]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()[-4:]
    assert "its last blocks are cut, so it would be another model or none; use an engine that reads it" in said[0]
    assert "it knows _scale_inv alone, so it would be another model" in said[1]
    assert said[2] == "widens ['config']"
    assert said[3] == said[2], "what genqual refuses --by transformers judges as the dequantised model, too"


@pytest.mark.parametrize(
    ("targets", "clash"),
    [
        ((["re:.*up_proj"], ["re:.*mlp.*"]), True),
        ((["Linear"], ["Linear"]), True),
        ((["re:.*up_proj"], ["Linear"]), False),
        ((["re:.*up_proj"], ["mlp.up_proj"]), False),
    ],
)
def test_two_groups_that_name_a_module_alike_are_refused(targets: Any, clash: bool) -> None:
    """Which one counts is nowhere defined; a scheme that both share is one."""

    def found(first: dict[str, Any], second: dict[str, Any]) -> Any:
        groups = {"a": first | {"targets": targets[0]}, "b": second | {"targets": targets[1]}}
        section = compressed(LINEAR) | {"config_groups": groups}
        stored = {"mlp.up_proj.weight": Tensor("I8", (4, 8)), "mlp.up_proj.weight_scale": Tensor("F32", (4, 1))}
        scheme = scheme_of({"quantization_config": section})
        assert scheme is not None
        return scheme.find(stored)

    other = LINEAR | {"input_activations": {"num_bits": 8, "strategy": "token", "dynamic": True}}
    assert len(found(LINEAR, LINEAR)) == 1
    if not clash:
        assert len(found(LINEAR, other)) == 1
        return
    with pytest.raises(BadInput, match=r"mlp\.up_proj is named by two of .*config_groups with different schemes"):
        found(LINEAR, other)


@pytest.mark.parametrize(("dtype", "found"), [("BF16", ("m.weight_scale", "BF16")), ("F32", None), ("U8", None)])
def test_scales_of_16_bits_are_what_compressed_tensors_rounds_weights_to(dtype: str, found: Any) -> None:
    """As llm-compressor stores them: in fp32 the weights that it widens are another model than the file declares."""
    scheme = scheme_of({"quantization_config": compressed(LINEAR)})
    assert isinstance(scheme, CompressedTensors)
    stored = {"m.weight": Tensor("I8", (4, 8)), "m.weight_scale": Tensor(dtype, (4, 1))}
    assert scheme.rounded_to(stored) == found


@pytest.mark.parametrize(("value", "told"), [(np.nan, "is not finite"), (0.0, "is 0 everywhere")])
def test_a_scale_that_can_be_none_is_named(value: float, told: str, tmp_path: Path) -> None:
    def spoilt(header: dict[str, Any], data: bytearray) -> bytearray:
        start, stop = header["model.layers.0.mlp.up_proj.weight_scale"]["data_offsets"]
        data[start:stop] = np.full((stop - start) // 4, value, dtype="<f4").tobytes()
        return data

    spec = resolve(str(rewritten(changed("ct-w8a8-int8", tmp_path / "m", halved=False), spoilt)))
    with pytest.raises(BadInput, match=rf"up_proj\.weight_scale {told}.*download it again"):
        weights.read(spec)


def test_a_scale_that_is_0_for_some_rows_is_a_scale(tmp_path: Path) -> None:
    def pruned(header: dict[str, Any], data: bytearray) -> bytearray:
        start = header["model.layers.0.mlp.up_proj.weight_scale"]["data_offsets"][0]
        data[start : start + 4] = bytes(4)
        return data

    spec = resolve(str(rewritten(changed("ct-w8a8-int8", tmp_path / "m", halved=False), pruned)))
    assert not weights.read(spec)["model.layers.0.mlp.up_proj.weight"][0].any()


@pytest.mark.parametrize(("given", "meant"), [("FP8", "fp8"), ("int8", "int8-"), ("bfloat16", "bf16")])
def test_a_scheme_of_another_name_is_told_the_nearest(
    given: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["reference", str(CHECKPOINTS / "fp8-block"), "--schemes", given])
    assert f"Did you mean {meant}" in capsys.readouterr().err


def test_a_scheme_that_a_stream_has_no_tolerance_of_is_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["reference", str(CHECKPOINTS / "fp8-block"), "--stream", "--schemes", "fp8"])
    said = capsys.readouterr()
    assert stopped.value.code not in (0, None)
    assert "--schemes fp8: accelerate" in said.err
    assert "leave --stream out" in said.err
    assert "reading the weights" not in said.out + said.err
