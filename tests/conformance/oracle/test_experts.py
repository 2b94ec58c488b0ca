"""Mixtures of experts and latent attention against loops that follow the definitions word by word."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle.core import MARGINS, At, Cache, Weights
from genqual.conformance.oracle.experts import ClampedExperts, Mixture, clamped_swiglu, mixture, separate
from genqual.conformance.oracle.latent import LatentAttention, LatentQuery, expand
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import gated
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary import Rotary, fixed, plain
from genqual.conformance.oracle.router import Router, Routing
from genqual.conformance.oracle.stacked import Stacked
from genqual.errors import BadInput

TOKENS, EXPERTS, HIDDEN = 20, 6, 5
Array = NDArray[np.float64]


def random(*shape: int, seed: int = 0) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def at_of(part: Any, seed: int = 1) -> tuple[At, dict[str, Array]]:
    """Where `part` is computed, over random weights, and these weights."""
    generator = np.random.default_rng(seed)
    arrays = {name: generator.standard_normal(shape) for name, shape in part.shapes().items()}
    return At(Weights(arrays, part.shapes(), prefix="", keep=True), Cache()), arrays


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gated_mlp(x: Array, w: dict[str, Array], name: str) -> Array:
    gate, up = w[f"{name}.gate_proj.weight"] @ x, w[f"{name}.up_proj.weight"] @ x
    inner = [g * sigmoid(g) * u for g, u in zip(gate, up, strict=True)]
    out: Array = w[f"{name}.down_proj.weight"] @ np.array(inner)
    return out


def test_a_mixture_is_the_weighted_sum_of_the_chosen_experts() -> None:
    x, matrices = random(TOKENS, HIDDEN), random(EXPERTS, HIDDEN, HIDDEN, seed=1)
    routing = Router(3).route(random(TOKENS, EXPERTS, seed=2))
    asked: list[int] = []

    def expert(index: int, rows: Array) -> Array:
        asked.append(index)
        return np.asarray(rows @ matrices[index].T)

    got, want = mixture(x, routing, expert), np.zeros_like(x)
    for t, k, out, into in itertools.product(range(TOKENS), range(3), range(HIDDEN), range(HIDDEN)):
        want[t, out] += routing.weights[t, k] * matrices[routing.experts[t, k], out, into] * x[t, into]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    assert sorted(asked) == sorted(set(routing.experts.ravel().tolist())), "each chosen expert once, no other"


def test_an_expert_that_no_token_chose_is_not_read() -> None:
    routing = Routing(np.array([[1], [1]]), np.ones((2, 1)), np.ones(2))

    def expert(index: int, rows: Array) -> Array:
        assert index == 1
        return rows

    np.testing.assert_array_equal(mixture(np.eye(2), routing, expert), np.eye(2))


@pytest.mark.parametrize("gate_of_shared", [False, True])
def test_shared_experts_see_every_token(gate_of_shared: bool) -> None:
    part = Mixture(
        Linear("gate", EXPERTS, HIDDEN),
        Router(2, normalise=True),
        separate("experts", EXPERTS, 4, HIDDEN, "silu"),
        shared=gated("shared", 7, HIDDEN, "silu"),
        shared_gate=Linear("shared_gate", 1, HIDDEN) if gate_of_shared else None,
    )
    at, w = at_of(part)
    x = random(TOKENS, HIDDEN)
    got = part(x, at)
    for t in range(TOKENS):
        logits = w["gate.weight"] @ x[t]
        first, second = sorted(range(EXPERTS), key=lambda e: -logits[e])[:2]
        share = sigmoid(logits[first] - logits[second])
        want = share * gated_mlp(x[t], w, f"experts.{first}") + (1 - share) * gated_mlp(x[t], w, f"experts.{second}")
        weight = sigmoid(float(w["shared_gate.weight"][0] @ x[t])) if gate_of_shared else 1.0
        np.testing.assert_allclose(got[t], want + weight * gated_mlp(x[t], w, "shared"), rtol=1e-11, atol=1e-12)


def test_margins_are_noted_in_parts_of_what_the_logits_are_sums_of() -> None:
    part = Mixture(Linear("gate", EXPERTS, HIDDEN, bias=True), Router(2), separate("e", EXPERTS, 4, HIDDEN, "silu"))
    at, w = at_of(part)
    x = random(TOKENS, HIDDEN)
    part(x[:7], at)
    part(x[7:], at)
    got = np.concatenate(at.cache.notes[0, MARGINS])
    for t in range(TOKENS):
        ordered = sorted((w["gate.weight"] @ x[t] + w["gate.bias"]).tolist(), reverse=True)
        terms = [
            *((w["gate.weight"][e, i] * x[t, i]) ** 2 for e in range(EXPERTS) for i in range(HIDDEN)),
            *w["gate.bias"] ** 2,
        ]
        assert got[t] == pytest.approx((ordered[1] - ordered[2]) / 2 / math.sqrt(sum(terms) / EXPERTS), rel=1e-12)


def test_a_token_reads_only_the_experts_that_it_chose() -> None:
    part = Mixture(
        Linear("gate", EXPERTS, HIDDEN),
        Router(2, score="sigmoid"),
        separate("experts", EXPERTS, 4, HIDDEN, "silu"),
        correction="bias",
        shared=gated("shared", 7, HIDDEN, "silu"),
    )
    one = 3 * 4 * HIDDEN
    assert part.active() == EXPERTS * HIDDEN + 2 * one + EXPERTS + 3 * 7 * HIDDEN
    stored = sum(math.prod(shape) for shape in part.shapes().values())
    assert stored - part.active() == 4 * one
    assert part.shapes()["bias"] == (EXPERTS,), "the correction bias is a weight of the checkpoint"


def test_an_impossible_router_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(BadInput, match="6 experts in 1 groups"):
        Mixture(Linear("gate", EXPERTS, HIDDEN), Router(7), separate("experts", EXPERTS, 4, HIDDEN, "silu"))


@pytest.mark.parametrize("alpha", [1.702, 0.5])
@pytest.mark.parametrize("limit", [7.0, 0.75])
def test_the_clamped_swiglu_is_as_defined(alpha: float, limit: float) -> None:
    values = [-900.0, -8.0, -1.0, 0.0, 0.5, 1.0, 6.9, 7.1, 900.0]
    for gate, up in itertools.product(values, repeat=2):
        g, u = min(gate, limit), max(-limit, min(up, limit))
        want = (u + 1) * g * (0.0 if alpha * g < -700 else sigmoid(alpha * g))
        got = clamped_swiglu(np.array([gate]), np.array([up]), alpha=alpha, limit=limit)
        assert got[0] == pytest.approx(want, rel=1e-13, abs=1e-300)


def test_clamped_experts_take_turns_of_gate_and_up() -> None:
    part = ClampedExperts("x", EXPERTS, HIDDEN, 4, alpha=1.3, limit=0.8)
    at, w = at_of(part)
    x = random(TOKENS, HIDDEN)
    for e in range(EXPERTS):
        got = part.expert(at)(e, x)
        both = [
            [x[t] @ w["x.gate_up_proj"][e, :, j] + w["x.gate_up_proj_bias"][e, j] for j in range(8)]
            for t in range(TOKENS)
        ]
        for t in range(TOKENS):
            inner = [
                (max(-0.8, min(both[t][2 * j + 1], 0.8)) + 1)
                * min(both[t][2 * j], 0.8)
                * sigmoid(1.3 * min(both[t][2 * j], 0.8))
                for j in range(4)
            ]
            want = np.array(inner) @ w["x.down_proj"][e] + w["x.down_proj_bias"][e]
            np.testing.assert_allclose(got[t], want, rtol=1e-11, atol=1e-12)


def test_latent_keys_and_values_are_expanded_head_by_head() -> None:
    heads, rank, key, rotary = 3, 7, 4, 2
    latent, turned, projection = random(6, rank), random(1, 6, rotary, seed=1), random(heads * 9, rank, seed=2)
    keys, values = expand(latent, turned, projection, heads=heads, key_width=key)
    assert keys.shape == (heads, 6, key + rotary)
    assert values.shape == (heads, 6, 5)
    for h, t in itertools.product(range(heads), range(6)):
        row = [sum(projection[h * 9 + i, j] * latent[t, j] for j in range(rank)) for i in range(9)]
        np.testing.assert_allclose(keys[h, t], [*row[:key], *turned[0, t]], rtol=1e-11)
        np.testing.assert_allclose(values[h, t], row[key:], rtol=1e-11)


def test_latent_attention_is_as_defined_and_caches_the_latent_alone() -> None:
    heads, rank, key, rotary, value = 2, 3, 4, 2, 5
    part = LatentAttention(
        LatentQuery(Linear("a", 6, HIDDEN), Norm("an", 6, 1e-6), Linear("b", heads * 6, 6)),
        Linear("down", rank + rotary, HIDDEN),
        Norm("norm", rank, 1e-6),
        Linear("up", heads * (key + value), rank),
        Linear("out", HIDDEN, heads * value),
        heads,
        rank,
        key,
        rotary,
        Rotary(fixed(plain(50.0, rotary)), interleaved=True),
        0.3,
    )
    at, w = at_of(part)
    x = random(9, HIDDEN)
    got = [part(x[:4], at)]
    for t in range(4, 9):
        at.cache.length = t
        got.append(part(x[t : t + 1], at))
    assert {name: a.shape for name, a in at.state.arrays.items()} == {"latent": (1, 9, rank), "rotary": (1, 9, rotary)}
    assert part.state_elements(9) == 9 * (rank + rotary)

    def normed(v: Array, name: str) -> Array:
        return v / math.sqrt((v @ v) / len(v) + 1e-6) * w[f"{name}.weight"]

    def turned(v: Array, t: int) -> Array:
        return np.array([v[0] * math.cos(t) - v[1] * math.sin(t), v[1] * math.cos(t) + v[0] * math.sin(t)])

    both = [w["down.weight"] @ row for row in x]
    expanded = [(w["up.weight"] @ normed(c[:rank], "norm")).reshape(heads, key + value) for c in both]
    for t, row in enumerate(np.concatenate(got)):
        q = (w["b.weight"] @ normed(w["a.weight"] @ x[t], "an")).reshape(heads, key + rotary)
        mixed = []
        for h in range(heads):
            query = np.concatenate([q[h, :key], turned(q[h, key:], t)])
            keys = [np.concatenate([expanded[s][h, :key], turned(both[s][rank:], s)]) for s in range(t + 1)]
            scores = [math.exp(0.3 * float(query @ k)) for k in keys]
            mixed.append(sum(score / sum(scores) * expanded[s][h, key:] for s, score in enumerate(scores)))
        np.testing.assert_allclose(row, w["out.weight"] @ np.concatenate(mixed), rtol=1e-11, atol=1e-12)


class Counting(dict[str, Any]):
    """Weights that count how often each is read."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        super().__init__(arrays)
        self.reads: dict[str, int] = {}

    def __getitem__(self, name: str) -> Any:
        self.reads[name] = self.reads.get(name, 0) + 1
        return super().__getitem__(name)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_stacked_experts_are_given_out_one_by_one_and_read_once_a_tensor(prefix: str) -> None:
    part = separate("model.mlp.experts", EXPERTS, 4, HIDDEN, "silu")
    both, down = random(EXPERTS, 8, HIDDEN), random(EXPERTS, HIDDEN, 4, seed=1)
    stored = Counting(
        {f"{prefix}mlp.experts.gate_up_proj": both, f"{prefix}mlp.experts.down_proj": down, "other": np.ones(1)}
    )
    given = Stacked()(stored, part.shapes())
    assert set(given) == {"other", *(name.removeprefix("model.") if not prefix else name for name in part.shapes())}
    assert not stored.reads, "asking for names reads nothing"
    weights = Weights({n: given[n] for n in given if n != "other"}, part.shapes(), prefix="model.", keep=True)
    for e in range(EXPERTS):
        name = f"model.mlp.experts.{e}"
        np.testing.assert_array_equal(weights[f"{name}.gate_proj.weight"], both[e, :4])
        np.testing.assert_array_equal(weights[f"{name}.up_proj.weight"], both[e, 4:])
        np.testing.assert_array_equal(weights[f"{name}.down_proj.weight"], down[e])
    ordered = [name for kind in ("gate_proj", "up_proj", "down_proj") for name in given if kind in name]
    stored.reads.clear()
    fresh = Stacked()(stored, part.shapes())
    for name in ordered:
        assert fresh[name].ndim == 2
    assert sum(stored.reads.values()) == 2


@pytest.mark.parametrize("shape", [(5, 8, HIDDEN), (7, 8, HIDDEN), (6, 10, HIDDEN), (48, HIDDEN)])
def test_a_stack_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    part = separate("mlp.experts", EXPERTS, 4, HIDDEN, "silu")
    stored = {"mlp.experts.gate_up_proj": np.ones(shape), "mlp.experts.down_proj": np.ones((EXPERTS, HIDDEN, 4))}
    given = Stacked()(stored, part.shapes())
    with pytest.raises(BadInput, match="gate_up_proj has shape"):
        given["mlp.experts.0.gate_proj.weight"]


def test_published_experts_are_left_as_they_are() -> None:
    part = separate("mlp.experts", EXPERTS, 4, HIDDEN, "silu")
    stored = {name: np.ones(shape) for name, shape in part.shapes().items()}
    assert Stacked()(stored, part.shapes()) is stored
