"""The oracle against transformers in another process, and against itself where it has two ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle import rotary
from genqual.conformance.oracle.attention import alibi_slopes, attend
from genqual.conformance.oracle.registry import oracle_for, source_sha256, supported
from genqual.errors import BadInput

from .peers import CONFIGS, IDS, Peers
from .small import BLOOM, LLAMA, parameters

BOTH = pytest.mark.parametrize("config", [LLAMA, BLOOM], ids=["llama", "bloom"])


def nrms(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The judge's statistic over whole rows of logits, written out again."""
    error = (got - got.mean(-1, keepdims=True)) - (want - want.mean(-1, keepdims=True))
    return float(np.sqrt((error**2).mean()) / np.sqrt(want.var(axis=-1).mean()))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_oracle_agrees_with_transformers(peers: Peers, name: str) -> None:
    if name.endswith("-v5") and version("transformers").startswith("4."):
        pytest.skip("transformers 4 ignores rope_parameters and takes theta 10000")
    oracle = oracle_for(CONFIGS[name], parameters(CONFIGS[name]))
    ours = oracle.logits(IDS)
    assert ours.dtype == np.float64
    assert nrms(peers[name]["fp32"], ours) <= 2e-6
    assert nrms(peers[name]["fp64"], ours) <= 1e-13
    assert oracle.greedy(IDS, 8).tolist() == peers[name]["greedy"].tolist()


@BOTH
def test_greedy_by_cache_is_greedy_by_full_passes(config: Mapping[str, object]) -> None:
    oracle, ids = oracle_for(config, parameters(config)), [5, 9, 200]
    chosen = oracle.greedy(ids, 12).tolist()
    for token in chosen:
        assert token == int(oracle.logits(ids)[-1].argmax())
        ids.append(token)


@BOTH
def test_a_token_does_not_see_what_follows(config: Mapping[str, object]) -> None:
    oracle = oracle_for(config, parameters(config))
    long = oracle.logits(IDS)
    np.testing.assert_allclose(oracle.logits(IDS[:40]), long[:40], atol=1e-12)
    assert nrms(oracle.logits([*IDS[:39], IDS[39] ^ 1])[-1], long[39]) > 1e-2


@BOTH
def test_weights_may_be_lazy_unprefixed_and_unkept(config: Mapping[str, object]) -> None:
    weights = parameters(config)
    prefix = "model." if config is LLAMA else "transformer."

    class Lazy(Mapping[str, NDArray[np.float32]]):
        reads = 0

        def __getitem__(self, name: str) -> NDArray[np.float32]:
            self.reads += 1
            return weights[name if name == "lm_head.weight" else prefix + name]

        def __iter__(self) -> Iterator[str]:
            return iter([name.removeprefix(prefix) for name in weights])

        def __len__(self) -> int:
            return len(weights)

    lazy = Lazy()
    oracle = oracle_for(config, lazy, keep=False)
    assert lazy.reads == 0
    np.testing.assert_array_equal(oracle.logits([1, 2, 3]), oracle_for(config, weights).logits([1, 2, 3]))
    assert lazy.reads == len(weights)
    oracle.logits([1])
    assert lazy.reads == 2 * len(weights)


def test_attention_in_blocks_is_attention_at_once() -> None:
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((heads, 300, 8)) for heads in (4, 2, 2))
    slopes = alibi_slopes(4)
    scores = np.einsum("hqd,hkd->hqk", q, np.repeat(k, 2, 0)) / np.sqrt(8)
    scores += -slopes[:, None, None] * (np.arange(300)[:, None] - np.arange(300))  # ALiBi as Press et al. write it
    weights = np.exp(np.where(np.tri(300, dtype=bool), scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    plain = np.einsum("hqk,hkd->qhd", weights, np.repeat(v, 2, 0)).reshape(300, 32)
    np.testing.assert_allclose(attend(q, k, v, first=0, slopes=slopes), plain, atol=1e-12)
    np.testing.assert_allclose(attend(q[:, 290:], k, v, first=290, slopes=slopes), plain[290:], atol=1e-12)


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2.0**-8]
    np.testing.assert_allclose(alibi_slopes(12)[8:], [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_llama3_scaling_stretches_slow_pairs_only() -> None:
    plain = rotary.plain(1e4, 64)
    scaled = rotary.llama3(1e4, 64, factor=8.0, slow=1.0, fast=4.0, original=64)
    turns = 64 * plain / (2 * np.pi)
    np.testing.assert_allclose(scaled[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "no_such"}, "bloom.*llama"),
        ({"model_type": None}, "bloom.*llama"),
        ({"rope_scaling": {"rope_type": "ntk-by-parts", "factor": 2.0}}, "ntk-by-parts.*yarn"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 2.0}}, "within the head"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"hidden_act": "mish"}, "silu"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": "3"}, "positive integer"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps"),
        ({"attention_bias": True}, "missing model.layers.0.self_attn"),
        ({"num_hidden_layers": 2}, "not used model.layers.2"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs"),
    ],
)
def test_a_configuration_that_it_cannot_follow_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        oracle_for(LLAMA | change, parameters(LLAMA))


def test_a_misshapen_weight_is_refused() -> None:
    weights = parameters(LLAMA) | {"model.norm.weight": np.ones(3, np.float32)}
    with pytest.raises(BadInput, match=r"model.norm.weight has shape \(3,\)"):
        oracle_for(LLAMA, weights).logits([1])


def test_a_tied_head_may_be_stored_twice() -> None:
    tied = LLAMA | {"tie_word_embeddings": True}
    weights = parameters(tied)
    twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    np.testing.assert_array_equal(oracle_for(tied, twice).logits([1, 2]), oracle_for(tied, weights).logits([1, 2]))


@pytest.mark.parametrize("ids", [[], [[1]], [256], [-1], [0.5]])
def test_ids_outside_the_vocabulary_are_refused(ids: Any) -> None:
    with pytest.raises(BadInput, match=r"token ids"):
        oracle_for(LLAMA, parameters(LLAMA)).logits(ids)


def test_what_is_supported_is_named() -> None:
    assert {"bloom", "llama"} <= set(supported())
    assert {len(source_sha256(model_type)) for model_type in supported()} == {64}
