"""Weights from integers: the same everywhere, exact in bf16, nothing trivial. The hashes are pinned."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

from genqual.errors import BadInput
from genqual.models import architectures, embedded, integers
from genqual.models.weights import hash_state

HASHES = {  # whoever changes one makes every committed reference and baseline of that model void
    "bloom-tiny": "057e23dd8dd0278a97a8e91171075df1a78db0dc0df3afe706834ca4b05e1f8c",
    "llama-tiny": "09dc2558f4b811d467fe0eeaaea0c965f1ff76f69f4318e327316bdbee0a2c3e",
    "bloom-30m": "59354ce66b2b349a485cbe7974a9eeb6274440a7e6182688c63544733366b82f",
    "llama-30m": "98e06c0e8f56d30454cc442e1bf5bb4caaf1a12695fe96bd5267300b1f923cd6",
    "llama-odd": "e108da38b2ff955ca623fc33f77a8ab63d96a5122d55c6bc0e14af75ea6d893a",
    "qwen3-tiny": "786c435cbb6d3714136ad54a5d7fdf99e8f540b0ca3d1af5cfcc443796717360",
    "gemma2-tiny": "bc13e0d735906cec6b9494d29b8413360c1d2bb497a650a65f0e14291e6db3d2",
    "qwen3_moe-tiny": "6e7874007c86075aa429d97a5af3528085a7a3f432cba49b6c04e4fb10d9cf82",
    "gpt_oss-tiny": "1afa459b9be523b9cfbf5c92d209761a8b76a2771a6a4a2b8bdf48b994c1c327",
    "deepseek_v3-tiny": "6121d7639022c9f1415cb26194c518cc2719e1f4390906c96d9407d56216b452",
    "qwen3_next-tiny": "b8dd0a41b059d17a5567b6147219902550bdc83045d5890e3b4f9c7c870ad183",
}


@pytest.mark.parametrize("name", embedded.NAMES)
def test_weights_never_change(name: str) -> None:
    assert hash_state(integers.tensors(name)) == HASHES[name]


def test_a_matrix_is_what_the_rule_says_in_exact_arithmetic() -> None:
    """llama-tiny's o_proj, element by element, in Python's rationals."""
    name = "model.layers.1.self_attn.o_proj.weight"
    large = integers.outliers(128)
    stream = hashlib.shake_128(f"genqual/{name}".encode()).digest(128 * 128)
    found = integers.state("llama-tiny")[name]
    for at in range(0, 128 * 128, 41):
        row, column = divmod(at, 128)
        expected = Fraction(2 * stream[at] - 255, 2**10) * (16 if row in large else 1)
        assert Fraction(float(found[row, column])) == expected, (row, column)


def test_a_norm_is_what_the_rule_says_in_exact_arithmetic() -> None:
    name = "transformer.h.2.input_layernorm.weight"
    stream = hashlib.shake_128(f"genqual/{name}".encode()).digest(192)
    found = integers.state("bloom-tiny")[name]
    for at, byte in enumerate(stream):
        expected = Fraction(128 + 2 * (byte % 64) - 63, 128) / (2**7 if at in integers.outliers(192) else 1)
        assert Fraction(float(found[at])) == expected, at


@pytest.mark.parametrize("name", ["bloom-tiny", "llama-tiny", *architectures.CONFIGS])
def test_every_weight_is_exact_in_bf16_and_fp16_and_none_is_zero(name: str) -> None:
    for parameter, values in integers.tensors(name):
        assert values.dtype == np.float32
        assert not (values.view(np.uint32) & 0xFFFF).any(), f"{parameter}: bf16 would round it"
        assert np.array_equal(values.astype(np.float16).astype(np.float32), values), f"{parameter}: fp16 would round it"
        assert np.all(values != 0), parameter


@pytest.mark.parametrize("name", ["bloom-tiny", "llama-tiny"])
def test_norms_are_not_ones_and_biases_are_not_small(name: str) -> None:
    for parameter, values in integers.tensors(name):
        quiet = np.delete(values, integers.outliers(values.shape[-1]), axis=-1) if "norm" in parameter else values
        if parameter.endswith("norm.weight") or parameter.endswith("ln_f.weight"):
            assert quiet.std() > 0.2, parameter
            assert quiet.mean() == pytest.approx(1.0, abs=0.1), parameter
        elif parameter.endswith(".bias"):
            assert 0.04 < values.std() < 0.1, parameter


@pytest.mark.parametrize(("hidden", "count"), [(128, 2), (192, 2), (512, 4)])
def test_outlier_channels_are_few_and_distinct(hidden: int, count: int) -> None:
    found = integers.outliers(hidden)
    assert len(set(found)) == count
    assert all(0 <= channel < hidden for channel in found)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(BadInput, match="bloom-tiny"):
        integers.state("llama-huge")
