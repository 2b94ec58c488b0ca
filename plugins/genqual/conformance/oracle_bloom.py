"""BLOOM in float64. Pure: NumPy only; written from the architecture's definition, shares no code with an engine.

Sources: BigScience 2022 (embedding LayerNorm, fused and per-head interleaved query-key-value, tanh GELU with
Megatron's rounded constant), Press et al. 2022 (ALiBi and its slopes for head counts that are no power of two).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle_core import (
    F64,
    I64,
    CausalOracle,
    KeyValues,
    Weights,
    attend,
    check_tied,
    divided,
    integer,
    number,
)


class BloomOracle(CausalOracle):
    """ALiBi attention over fused projections, either residual order, tied or untied head."""

    architecture: ClassVar[str] = "bloom"

    def __init__(self, config: Mapping[str, object], weights: Mapping[str, NDArray[Any]], *, keep: bool = True) -> None:
        super().__init__(integer(config, "n_layer", "num_hidden_layers"), integer(config, "vocab_size"))
        hidden = integer(config, "n_embed", "hidden_size")
        self.heads = integer(config, "n_head", "num_attention_heads")
        self.width = divided("hidden_size over n_head", hidden, self.heads)
        self.eps = number(config, "layer_norm_epsilon", 1e-5)
        self.residual_after_norm = bool(config.get("apply_residual_connection_post_layernorm", False))
        self.slopes = alibi_slopes(self.heads)
        tied = bool(config.get("tie_word_embeddings", True))
        self.head_name = "transformer.word_embeddings.weight" if tied else "lm_head.weight"
        if tied:
            check_tied(weights, "word_embeddings.weight")
        ignored = ("lm_head.weight",) if tied else ()
        shapes = self._shapes(hidden, tied=tied)
        self.weights = Weights(weights, shapes, prefix="transformer.", keep=keep, ignored=ignored)

    def _shapes(self, hidden: int, *, tied: bool) -> dict[str, tuple[int, ...]]:
        linears = {  # name: (out, in); every one has a bias
            "self_attention.query_key_value": (3 * hidden, hidden),
            "self_attention.dense": (hidden, hidden),
            "mlp.dense_h_to_4h": (4 * hidden, hidden),
            "mlp.dense_4h_to_h": (hidden, 4 * hidden),
        }
        shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (self.vocabulary, hidden)}
        if not tied:
            shapes["lm_head.weight"] = (self.vocabulary, hidden)
        norms = ["transformer.word_embeddings_layernorm", "transformer.ln_f"]
        for layer in (f"transformer.h.{i}" for i in range(self.layers)):
            norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
            shapes |= {f"{layer}.{name}.weight": shape for name, shape in linears.items()}
            shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in linears.items()}
        return shapes | {f"{name}.{part}": (hidden,) for name in norms for part in ("weight", "bias")}

    def _embed(self, ids: I64) -> F64:
        embedded = self.weights["transformer.word_embeddings.weight"][ids]
        return self._norm(embedded, "transformer.word_embeddings_layernorm")

    def _layer(self, index: int, x: F64, cache: KeyValues) -> F64:
        w, name = self.weights, f"transformer.h.{index}"
        h = self._norm(x, f"{name}.input_layernorm")
        fused = w.linear(h, f"{name}.self_attention.query_key_value")
        # The fused rows are (head, query | key | value, width), not three blocks of all heads.
        q, k, v = fused.reshape(len(x), self.heads, 3, self.width).transpose(2, 1, 0, 3)
        keys, values = cache.extend(index, k, v)
        mixed = attend(q, keys, values, first=cache.length, slopes=self.slopes)
        x = (h if self.residual_after_norm else x) + w.linear(mixed, f"{name}.self_attention.dense")
        h = self._norm(x, f"{name}.post_attention_layernorm")
        inner = gelu(w.linear(h, f"{name}.mlp.dense_h_to_4h"))
        return (h if self.residual_after_norm else x) + w.linear(inner, f"{name}.mlp.dense_4h_to_h")

    def _head(self, x: F64) -> F64:
        return self._norm(x, "transformer.ln_f") @ self.weights[self.head_name].T

    def _norm(self, x: F64, name: str) -> F64:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled: F64 = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self.eps)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def gelu(x: F64) -> F64:
    """The tanh approximation with Megatron's 0.79788456 for sqrt(2/pi): BLOOM is defined by the rounded constant."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(0.79788456 * x * (1.0 + 0.044715 * x * x))), dtype=np.float64)


def alibi_slopes(heads: int) -> F64:
    """ALiBi's slope of each head, (heads,): 2^(-8i/n) for a power of two n, then every second slope of 2n."""
    power = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * (heads - power) + 1, 2) / power)
    return np.concatenate([slopes, between])
