"""Faults in the oracle itself: what fp32 mode reads of each, far above its limit. docs/judge.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.oracle import bloom
from genqual.conformance.oracle.attention import alibi_slopes
from genqual.conformance.oracle.core import Cache, CausalOracle, LayerState
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.references.make import Reference, make
from genqual.conformance.scores import scores_of

from .small import BLOOM, LLAMA, parameters

F64 = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]
CONFIGS: dict[str, Mapping[str, Any]] = {"llama": LLAMA, "bloom": BLOOM}
PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(3, 256, n)] for n in (5, 11, 17, 30)]
STEPS = 24


class StaleLayer(LayerState):
    """Gives back the previous token's entry in place of the new one, once decoding has begun."""

    def extend(self, name: str, new: F64) -> F64:
        old = self.get(name)
        return super().extend(name, new if old is None else old[:, -1:])


class Stale(Cache):
    """Layer 1 is stale."""

    def layer(self, index: int) -> LayerState:
        if index == 1:
            self._layers.setdefault(1, StaleLayer())
        return super().layer(index)


def built(config: Mapping[str, Any], weights: Weights) -> CausalOracle:
    return cast(CausalOracle, oracle_for(config, weights))


def decoded(oracle: CausalOracle, reference: Reference) -> F64:
    """Logits (steps, rows, vocabulary) forced step by step through the cache, as an engine is scored."""
    rows = []
    for prompt, forced in zip(reference.prompts, reference.forced, strict=True):
        cache, ids, steps = oracle.cache(), np.array(prompt), []
        for token in forced:
            steps.append(oracle.head(oracle.states(ids, cache)[-1:])[0])
            ids = np.array([token])
        rows.append(np.stack(steps))
    return np.stack(rows, axis=1)


def with_cache(cache: type[Cache]) -> Callable[[str, Weights], CausalOracle]:
    def build(name: str, weights: Weights) -> CausalOracle:
        oracle = built(CONFIGS[name], weights)
        oracle.cache = cache  # type: ignore[method-assign]
        return oracle

    return build


def with_weights(change: Callable[[str, Weights], None]) -> Callable[[str, Weights], CausalOracle]:
    def build(name: str, weights: Weights) -> CausalOracle:
        change(name, weights)
        return with_cache(Cache)(name, weights)

    return build


def flip_one_sign(name: str, weights: Weights) -> None:
    key = {"llama": "model.layers.1.mlp.up_proj.weight", "bloom": "transformer.h.1.mlp.dense_h_to_4h.weight"}[name]
    size = np.abs(weights[key])
    weights[key].flat[np.argsort(size, axis=None)[size.size // 2]] *= -1  # of median size


def zero_a_head(name: str, weights: Weights) -> None:
    key = {"llama": "model.layers.1.self_attn.o_proj.weight", "bloom": "transformer.h.1.self_attention.dense.weight"}
    weights[key[name]][:, 16:32] = 0.0


def zero_a_vocabulary_row(name: str, weights: Weights) -> None:
    weights["lm_head.weight"][200] = 0.0


def theta_one_percent(name: str, weights: Weights) -> CausalOracle:
    return built(LLAMA | {"rope_theta": 10100.0}, weights)


def slopes_one_percent(name: str, weights: Weights) -> CausalOracle:
    with patch.object(bloom, "alibi_slopes", lambda heads: alibi_slopes(heads) * 1.01):
        return built(BLOOM, weights)


def off_by_one(name: str, weights: Weights) -> CausalOracle:
    """Decoding counts one position too many."""
    oracle = built(CONFIGS[name], weights)
    plain = oracle.layer

    def layer(index: int, x: F64, cache: Cache) -> F64:
        late = int(len(x) == 1)
        cache.length += late
        after = plain(index, x, cache)
        cache.length -= late
        return after

    oracle.layer = layer  # type: ignore[method-assign]
    return oracle


def eps_too_large(name: str, weights: Weights) -> CausalOracle:
    key = {"llama": "rms_norm_eps", "bloom": "layer_norm_epsilon"}[name]
    return built({**CONFIGS[name], key: 1e-4}, weights)


FAULTS: dict[str, tuple[Callable[[str, Weights], CausalOracle], tuple[str, ...]]] = {
    "one sign": (with_weights(flip_one_sign), ("llama", "bloom")),
    "theta 1 %": (theta_one_percent, ("llama",)),
    "ALiBi slopes 1 %": (slopes_one_percent, ("bloom",)),
    "norm eps 1e-4": (eps_too_large, ("llama", "bloom")),
    "zeroed vocabulary row": (with_weights(zero_a_vocabulary_row), ("llama", "bloom")),
    "zeroed head": (with_weights(zero_a_head), ("llama", "bloom")),
    "stale KV in layer 1": (with_cache(Stale), ("llama", "bloom")),
    "position off by one in decode": (off_by_one, ("llama",)),
}


@pytest.fixture(scope="module")
def references() -> dict[str, Reference]:
    return {name: make(name, "0", oracle_for(c, parameters(c)), PROMPTS, STEPS) for name, c in CONFIGS.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cached_oracle_without_a_fault_passes(references: dict[str, Reference], name: str) -> None:
    reference = references[name]
    logits = decoded(with_cache(Cache)(name, parameters(CONFIGS[name])), reference)
    verdict = judge_scores(scores_of(logits, reference.forced), reference, dtype="fp32")
    assert verdict.passed
    assert verdict.nrms is not None
    assert verdict.nrms < 1e-7  # what float32 projections keep


@pytest.mark.parametrize(("name", "fault"), [(name, fault) for fault, (_, names) in FAULTS.items() for name in names])
def test_the_fp32_lane_sees_every_fault(references: dict[str, Reference], name: str, fault: str) -> None:
    reference, build = references[name], FAULTS[fault][0]
    logits = decoded(build(name, parameters(CONFIGS[name])), reference)
    verdict = judge_scores(scores_of(logits, reference.forced), reference, dtype="fp32")
    assert verdict.status == "fail"
    assert verdict.nrms is not None
    print(f"{name}: {fault}: nrms {verdict.nrms:.1e}, {verdict.flips} flips of {verdict.total}")
    assert verdict.nrms > 9e-5
