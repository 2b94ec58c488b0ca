"""Each layout against its definition, number by number: what no library's checkpoint beside this file covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.errors import BadInput
from genqual.models.narrow_floats import fp4, table
from genqual.models.quantised.base import Tensor
from genqual.models.quantised.numbers import bits_of, spread
from genqual.models.quantised.registry import scheme_of

DRAW = np.random.default_rng(5)


def dequantised(section: dict[str, Any], stored: dict[str, tuple[str, np.ndarray[Any, Any]]]) -> dict[str, Any]:
    """What the format makes of `stored`: name -> (safetensors dtype, values as the file reader gives them)."""
    scheme = scheme_of({"quantization_config": section})
    assert scheme is not None
    found = scheme.find({name: Tensor(dtype, values.shape) for name, (dtype, values) in stored.items()})
    return {
        one.name: scheme.dequantise(one, {what: stored[name][1] for what, name in one.pieces.items()}) for one in found
    }


def word_of(integers: list[int], bits: int) -> list[int]:
    """32-bit words of `integers` without gaps, as one long number."""
    number = sum(value << (bits * index) for index, value in enumerate(integers))
    count = -(-len(integers) * bits // 32)
    words = [(number >> (32 * index)) & 0xFFFFFFFF for index in range(count)]
    return [word - (1 << 32) if word >= 1 << 31 else word for word in words]


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_integers_of_any_width_are_unpacked(bits: int, count: int, seed: int) -> None:
    integers = np.random.default_rng(seed).integers(0, 1 << bits, (3, count))
    words = np.array([word_of(row.tolist(), bits) for row in integers], dtype=np.int32)
    assert np.array_equal(bits_of(words, bits, count), integers)


def test_floats_of_four_and_eight_bits_are_what_their_bits_say() -> None:
    for pattern in range(256):
        sign = -1.0 if pattern & 128 else 1.0
        exponent, mantissa = (pattern >> 3) & 15, pattern & 7
        value = sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))
        found = table("F8_E4M3")[pattern]
        assert np.isnan(found) if pattern & 127 == 127 else found == value
        exponent, mantissa = (pattern >> 2) & 31, pattern & 3
        value = sign * (mantissa / 4 * 2.0**-14 if exponent == 0 else (1 + mantissa / 4) * 2.0 ** (exponent - 15))
        found = table("F8_E5M2")[pattern]
        assert found == value if exponent < 31 else not np.isfinite(found)
        assert pattern == 255 or table("F8_E8M0")[pattern] == np.float32(2.0 ** (pattern - 127))
    assert np.isnan(table("F8_E8M0")[255])
    for pattern in range(16):
        exponent, mantissa = (pattern >> 1) & 3, pattern & 1
        value = mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1)
        assert fp4(np.array([[pattern]], dtype=np.uint8))[0, 0] == (-value if pattern & 8 else value)


@pytest.mark.parametrize("shape", [(37, 50), (32, 48), (3, 37, 50)])
def test_fp8_blocks_at_the_edges_are_cut(shape: tuple[int, ...]) -> None:
    raw = table("F8_E4M3")[DRAW.integers(0, 120, shape)]
    grid = (*shape[:-2], -(-shape[-2] // 16), -(-shape[-1] // 32))
    scale = DRAW.uniform(0.5, 2.0, grid).astype(np.float32)
    section = {"quant_method": "fp8", "weight_block_size": [16, 32]}
    (found,) = dequantised(section, {"x": ("F8_E4M3", raw), "x_scale_inv": ("F32", scale)}).values()
    for at in np.ndindex(shape):
        assert found[at] == np.float32(raw[at] * scale[(*at[:-2], at[-2] // 16, at[-1] // 32)])


@pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1)])
def test_fp8_scales_of_a_tensor_or_of_its_rows(shape: tuple[int, ...]) -> None:
    raw = table("F8_E4M3")[DRAW.integers(0, 120, (6, 10))]
    scale = DRAW.uniform(0.5, 2.0, shape).astype(np.float32)
    (found,) = dequantised({"quant_method": "fp8"}, {"x": ("F8_E4M3", raw), "x_scale": ("F32", scale)}).values()
    whole = scale.reshape(-1)
    for row in range(6):
        assert np.array_equal(found[row], raw[row] * whole[row if whole.size > 1 else 0])


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_in_both_of_its_formats(bits: int, shuffled: bool, second: bool) -> None:
    inputs, outputs, group = 64, 32, 16
    values = DRAW.integers(0, 1 << bits, (inputs, outputs))
    zeros = DRAW.integers(1, 1 << bits, (inputs // group, outputs))
    scales = DRAW.uniform(0.01, 0.1, zeros.shape).astype(np.float32)
    index = np.arange(inputs) // group
    index = DRAW.permutation(index) if shuffled else index
    kept = zeros - (0 if second else 1)
    stored: dict[str, tuple[str, Any]] = {
        "m.qweight": ("I32", np.array([word_of(column.tolist(), bits) for column in values.T], dtype=np.int32).T),
        "m.qzeros": ("I32", np.array([word_of(row.tolist(), bits) for row in kept], dtype=np.int32)),
        "m.scales": ("F16", scales),
        "m.g_idx": ("I32", index.astype(np.int32)),
    }
    section = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": shuffled}
    section |= {"checkpoint_format": "gptq_v2"} if second else {}
    (found,) = dequantised(section, stored).values()
    for i in range(inputs):
        for o in range(outputs):
            assert found[o, i] == scales[index[i], o] * np.float32(values[i, o] - zeros[index[i], o])


def test_a_gptq_zero_point_that_loaders_do_not_agree_on_is_refused() -> None:
    zeros = np.full((1, 4), -1, dtype=np.int32)  # every nibble 15: a zero point of 16, or of 0 that was wrapped
    stored: dict[str, tuple[str, Any]] = {
        "m.qweight": ("I32", np.zeros((2, 32), dtype=np.int32)),
        "m.qzeros": ("I32", zeros),
        "m.scales": ("F16", np.ones((1, 32), dtype=np.float32)),
    }
    with pytest.raises(BadInput, match=r"m\.qzeros: a zero point of 16 .* loaders disagree"):
        dequantised({"quant_method": "gptq", "bits": 4, "group_size": 16}, stored)


def test_awq_puts_the_eight_of_a_word_in_its_own_order() -> None:
    inputs, outputs, group, order = 32, 16, 16, (0, 2, 4, 6, 1, 3, 5, 7)
    values = DRAW.integers(0, 16, (inputs, outputs))
    zeros = DRAW.integers(0, 16, (inputs // group, outputs))
    scales = DRAW.uniform(0.01, 0.1, zeros.shape).astype(np.float32)

    def packed(integers: Any) -> Any:
        rows = [
            [word_of([int(row[8 * word + place]) for place in order], 4)[0] for word in range(outputs // 8)]
            for row in integers
        ]
        return np.array(rows, dtype=np.int32)

    stored: dict[str, tuple[str, Any]] = {
        **{"m.qweight": ("I32", packed(values)), "m.qzeros": ("I32", packed(zeros)), "m.scales": ("F16", scales)}
    }
    (found,) = dequantised({"quant_method": "awq", "w_bit": 4, "q_group_size": group}, stored).values()
    for i in range(inputs):
        for o in range(outputs):
            assert found[o, i] == scales[i // group, o] * np.float32(values[i, o] - zeros[i // group, o])


def test_compressed_tensors_finds_the_group_that_names_a_module_best() -> None:
    """A name before an expression before a class; the order in which config.json lists them says nothing."""

    def weights(bits: int, **more: Any) -> dict[str, Any]:
        return {"weights": {"num_bits": bits, "strategy": "channel"}, **more}

    section = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "a": weights(8, targets=["Linear"]),
            "b": weights(4, targets=["re:.*down_proj$"]),
            "c": weights(2, targets=["l.1.down_proj"]),
        },
    }
    stored: dict[str, tuple[str, Any]] = {}
    for module, bits in (("l.0.up_proj", 8), ("l.0.down_proj", 4), ("l.1.down_proj", 2)):
        words = np.array([word_of([1 << (bits - 1)] * 15 + [0], bits)] * 2, dtype=np.int32)
        stored[f"{module}.weight_packed"] = ("I32", words)
        stored[f"{module}.weight_scale"] = ("F32", np.ones((2, 1), dtype=np.float32))
        stored[f"{module}.weight_shape"] = ("I64", np.array([2, 16]))
    found = dequantised(section, stored)
    for module, least in (("l.0.up_proj", -128), ("l.0.down_proj", -8), ("l.1.down_proj", -2)):
        assert np.array_equal(found[f"{module}.weight"], [[0] * 15 + [least]] * 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_class_names_modules_of_its_own_and_a_name_no_other_module(order: tuple[int, ...]) -> None:
    """`lm_head` is one module, not a class, and `Embedding` no linear layer, whichever group is listed first."""
    weights = {"num_bits": 8, "strategy": "channel"}
    token = {"num_bits": 8, "strategy": "token", "dynamic": True}
    groups = [
        {"targets": ["lm_head"], "weights": weights},
        {"targets": ["Embedding"], "weights": weights},
        {"targets": ["Linear"], "weights": weights, "input_activations": token},
    ]
    section: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {str(index): groups[index] for index in order},
    }
    scheme = scheme_of({"quantization_config": section})
    assert scheme is not None
    stored: dict[str, Tensor] = {}
    for module in ("lm_head", "model.embed_tokens", "model.layers.0.mlp.up_proj"):
        stored |= {f"{module}.weight": Tensor("I8", (4, 8)), f"{module}.weight_scale": Tensor("F32", (4, 1))}
    rounded = {one.name: one.inputs is not None for one in scheme.find(stored)}
    assert rounded == {
        "lm_head.weight": False,
        "model.embed_tokens.weight": False,
        "model.layers.0.mlp.up_proj.weight": True,
    }


def test_zero_points_of_a_symmetric_grid_are_0_or_refused() -> None:
    weights = {"num_bits": 8, "strategy": "channel"}
    section: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"a": {"targets": ["Linear"], "weights": weights}},
    }
    zero = np.zeros((2, 1), dtype=np.int8)
    stored: dict[str, tuple[str, Any]] = {
        "m.weight": ("I8", np.ones((2, 4), dtype=np.int8)),
        "m.weight_scale": ("F32", np.ones((2, 1), dtype=np.float32)),
        "m.weight_zero_point": ("I8", zero),
    }
    assert np.array_equal(dequantised(section, stored)["m.weight"], np.ones((2, 4)))
    with pytest.raises(BadInput, match=r"m\.weight_zero_point is not 0, and .* symmetric.*mend `symmetric`"):
        dequantised(section, stored | {"m.weight_zero_point": ("I8", zero + 5)})


def test_scales_of_groups_and_blocks_lie_over_their_own_weights() -> None:
    scale = np.arange(6.0).reshape(2, 3)
    whole = spread(scale, (5, 8), (3, 3))
    assert all(whole[i, j] == scale[i // 3, j // 3] for i in range(5) for j in range(8))
