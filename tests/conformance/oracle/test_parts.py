"""The parts of dense models against loops that follow their definitions word by word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle import mlp, norms, rotary
from genqual.conformance.oracle.attention import alibi_slopes, attend
from genqual.conformance.oracle.falcon import bfloat16_alibi
from genqual.conformance.oracle.mpt import mpt_slopes
from genqual.conformance.oracle.registry import oracle_for
from genqual.errors import BadInput

from .small import IDS, SMALL, parameters

Array = NDArray[np.float64]


def random(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("window", [None, 1, 7, 200])
@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("sunk", [False, True])
def test_attention_is_a_softmax_over_the_keys_in_sight(window: int | None, cap: float | None, sunk: bool) -> None:
    heads, groups, tokens, width, first = 4, 2, 140, 6, 5
    q, k, v = (
        random(heads, tokens, width),
        random(groups, first + tokens, width, seed=1),
        random(groups, 145, 3, seed=2),
    )
    slopes, sinks, bias = alibi_slopes(heads), random(heads, seed=3), random(heads, first + tokens, seed=4)
    got = attend(
        q, k, v, first=first, slopes=slopes, scale=0.4, window=window, cap=cap, sinks=sinks if sunk else None, bias=bias
    )
    for token in (0, 1, 6, 127, 128, 139):
        for head in range(heads):
            here = first + token
            seen = [p for p in range(first + tokens) if p <= here and (window is None or here - p < window)]
            scores = []
            for position in seen:
                score = 0.4 * sum(q[head, token, d] * k[head // 2, position, d] for d in range(width))
                score = score if cap is None else cap * math.tanh(score / cap)
                scores.append(score + slopes[head] * (position - here) + bias[head, position])
            # The constant -slope x here of ALiBi's definition does not cancel against a sink.
            sink = math.exp(sinks[head] - slopes[head] * here) if sunk else 0.0
            total = sum(map(math.exp, scores)) + sink
            want = sum(math.exp(s) * v[head // 2, p] for s, p in zip(scores, seen, strict=True)) / total
            np.testing.assert_allclose(got[token, 3 * head : 3 * head + 3], want, atol=1e-12)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_multiplies_by_a_complex_number(interleaved: bool) -> None:
    width, turned, first = 10, 6, 3
    x, frequencies = random(2, 5, width), rotary.plain(100.0, turned)
    got = rotary.Rotary(rotary.fixed(frequencies), magnitude=1.3, interleaved=interleaved)(x, first)
    for head, token, pair in np.ndindex(2, 5, turned // 2):
        low, high = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + turned // 2)
        angle = (first + token) * 100.0 ** (-2 * pair / turned)
        want = 1.3 * complex(x[head, token, low], x[head, token, high]) * complex(math.cos(angle), math.sin(angle))
        assert complex(got[head, token, low], got[head, token, high]) == pytest.approx(want, abs=1e-12)
    np.testing.assert_array_equal(got[..., turned:], x[..., turned:])


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    """As its paper says it: by turns within the original context, with a ramp over the pairs between."""
    theta, width, factor, original = 1e4, 64, 4.0, 512
    frequencies = rotary.plain(theta, width)
    scaled = rotary.yarn(theta, width, factor, original, 32.0, 1.0, truncate=False)
    turns = original * frequencies / (2 * math.pi)
    np.testing.assert_allclose(scaled[turns >= 32], frequencies[turns >= 32])
    np.testing.assert_allclose(scaled[turns <= 1], frequencies[turns <= 1] / factor)
    between = (turns > 1) & (turns < 32)
    share = np.log(32 / turns[between]) / math.log(32)  # linear in the pair is linear in the logarithm of turns
    want = share * frequencies[between] / factor + (1 - share) * frequencies[between]
    np.testing.assert_allclose(scaled[between], want, rtol=1e-12)
    assert rotary.yarn_magnitude(40.0) == pytest.approx(1.3689, abs=1e-4)  # 0.1 ln(40) + 1
    assert rotary.yarn_magnitude(0.5) == 1.0


def test_dynamic_and_longrope_change_with_the_length_and_say_so() -> None:
    grown = rotary.dynamic(1e4, 8, 2.0, 100)
    np.testing.assert_array_equal(grown(100), rotary.plain(1e4, 8))
    np.testing.assert_allclose(grown(200), rotary.plain(1e4 * (2 * 200 / 100 - 1) ** (8 / 6), 8))
    short, long = np.array([1.0, 1, 2, 3]), np.array([4.0, 5, 6, 7])
    chosen = rotary.longrope(1e4, 8, short, long, 100)
    np.testing.assert_allclose(chosen(100), rotary.plain(1e4, 8) / short)
    np.testing.assert_allclose(chosen(101), rotary.plain(1e4, 8) / long)
    assert rotary.longrope_magnitude(32.0, 4096) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_a_text_that_outgrows_its_frequencies_is_read_in_one_pass_only() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0}
    config = SMALL["llama"] | {"rope_scaling": rope, "max_position_embeddings": 40}
    oracle: Any = oracle_for(config, parameters(config))
    oracle.logits(IDS)
    assert len(oracle.greedy(IDS[:36], 5)) == 5
    with pytest.raises(BadInput, match="41 tokens, token by token: beyond 40"):
        oracle.greedy(IDS[:36], 6)


@pytest.mark.parametrize(("name", "longest"), [("gpt2", 192), ("opt", 192)])
def test_learned_positions_end(name: str, longest: int) -> None:
    oracle = oracle_for(SMALL[name], parameters(SMALL[name]))
    oracle.logits([1] * longest)
    with pytest.raises(BadInput, match=f"{longest + 1} tokens: this model has {longest} learned positions"):
        oracle.logits([1] * (longest + 1))


def test_norms_and_activations_are_those_of_their_papers() -> None:
    x = random(3, 8)
    for row, rms, layer in zip(x, norms.rms(x, 1e-3), norms.layer(x, 1e-3), strict=True):
        np.testing.assert_allclose(rms, row / math.sqrt(sum(row**2) / 8 + 1e-3))
        np.testing.assert_allclose(layer, (row - row.mean()) / math.sqrt(row.var() + 1e-3))
    for value in (-800.0, -3.0, -0.1, 0.0, 0.4, 5.0, 800.0):
        logistic = 1 / (1 + math.exp(-value)) if value > -700 else 0.0
        assert mlp.silu(np.array([value]))[0] == pytest.approx(value * logistic)
        assert mlp.gelu(np.array([value]))[0] == pytest.approx(
            value * 0.5 * math.erfc(-value / math.sqrt(2)), abs=1e-15
        )
        assert mlp.gelu_tanh(np.array([value]))[0] == pytest.approx(mlp.gelu(np.array([value]))[0], abs=5e-4)
        assert mlp.relu_squared(np.array([value]))[0] == max(value, 0.0) ** 2


def test_slopes_of_mpt_are_those_of_alibi_and_falcon_rounds_them() -> None:
    for heads in (1, 3, 4, 6, 8, 12, 71):
        np.testing.assert_allclose(mpt_slopes(heads), alibi_slopes(heads), rtol=1e-15)
    bias = bfloat16_alibi(8, 16)(600)
    np.testing.assert_array_equal(bias[:, :257], alibi_slopes(8)[:, None] * np.arange(257) / 4)
    assert bias[0, 257] == 256 * 0.5 / 4  # 257 is not a bfloat16; ties go to even
    assert bias[0, 259] == 260 * 0.5 / 4


def test_counting_is_by_hand() -> None:
    """Parameters, bytes of keys and windows of a model that is small enough to count."""
    oracle: Any = oracle_for(SMALL["mistral"], parameters(SMALL["mistral"]))
    hidden, inner, queries, keys, layers, vocabulary = 32, 48, 48, 24, 3, 64
    layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * inner + 2 * hidden
    assert sum(int(np.prod(shape)) for shape in oracle.weight_shapes().values()) == (
        layers * layer + 2 * vocabulary * hidden + hidden
    )
    assert oracle.active_parameters() == layers * layer + vocabulary * hidden + hidden + hidden
    assert oracle.cache_bytes(10, 2) == layers * 2 * 10 * keys * 2
    assert oracle.cache_bytes(100, 2) == layers * 2 * 16 * keys * 2  # a window of 16
    assert [oracle.layer_window(index) for index in range(layers)] == [16] * 3
