"""Llama in float64. Pure: NumPy only; written from the architecture's definition, shares no code with an engine.

Sources: Touvron et al. 2023 (RMSNorm, SwiGLU, rotary embedding in the half-split layout of the Hugging Face
checkpoints), Ainslie et al. 2023 (grouped queries), Llama 3.1's rotary scaling as published with its checkpoints.
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
from genqual.errors import BadInput


class LlamaOracle(CausalOracle):
    """Grouped-query attention, rotary positions (default, linear, llama3), optional biases, tied or untied head."""

    architecture: ClassVar[str] = "llama"

    def __init__(self, config: Mapping[str, object], weights: Mapping[str, NDArray[Any]], *, keep: bool = True) -> None:
        super().__init__(integer(config, "num_hidden_layers"), integer(config, "vocab_size"))
        hidden = integer(config, "hidden_size")
        self.heads = integer(config, "num_attention_heads")
        self.kv_heads = integer(config, "num_key_value_heads", default=self.heads)
        divided("num_attention_heads over num_key_value_heads", self.heads, self.kv_heads)
        self.width = integer(config, "head_dim", default=hidden // self.heads)
        self.eps = number(config, "rms_norm_eps", 1e-6)
        self.frequencies = inverse_frequencies(config, self.width)
        if config.get("hidden_act", "silu") != "silu":
            raise BadInput(f"config hidden_act = {config['hidden_act']!r}: the Llama oracle knows silu only")
        tied = bool(config.get("tie_word_embeddings", False))
        shapes = self._shapes(config, hidden, tied=tied)
        self.head_name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        if tied:
            check_tied(weights, "embed_tokens.weight")
        ignored = ("rotary_emb.inv_freq", "lm_head.weight") if tied else ("rotary_emb.inv_freq",)
        self.weights = Weights(weights, shapes, prefix="model.", keep=keep, ignored=ignored)

    def _shapes(self, config: Mapping[str, object], hidden: int, *, tied: bool) -> dict[str, tuple[int, ...]]:
        inner = integer(config, "intermediate_size")
        queries, keys = self.heads * self.width, self.kv_heads * self.width
        linears = {  # name: (out, in, has a bias)
            "self_attn.q_proj": (queries, hidden, config.get("attention_bias")),
            "self_attn.k_proj": (keys, hidden, config.get("attention_bias")),
            "self_attn.v_proj": (keys, hidden, config.get("attention_bias")),
            "self_attn.o_proj": (hidden, queries, config.get("attention_bias")),
            "mlp.gate_proj": (inner, hidden, config.get("mlp_bias")),
            "mlp.up_proj": (inner, hidden, config.get("mlp_bias")),
            "mlp.down_proj": (hidden, inner, config.get("mlp_bias")),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden),
            "model.norm.weight": (hidden,),
        }
        if not tied:
            shapes["lm_head.weight"] = (self.vocabulary, hidden)
        for layer in (f"model.layers.{i}" for i in range(self.layers)):
            shapes |= {f"{layer}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
            shapes |= {f"{layer}.{name}.weight": (out, in_) for name, (out, in_, _) in linears.items()}
            shapes |= {f"{layer}.{name}.bias": (out,) for name, (out, _, bias) in linears.items() if bias}
        return shapes

    def _embed(self, ids: I64) -> F64:
        return self.weights["model.embed_tokens.weight"][ids]

    def _layer(self, index: int, x: F64, cache: KeyValues) -> F64:
        w, name = self.weights, f"model.layers.{index}"
        h = self._norm(x, f"{name}.input_layernorm")
        q = self._rotate(self._split(w.linear(h, f"{name}.self_attn.q_proj")), cache.length)
        k = self._rotate(self._split(w.linear(h, f"{name}.self_attn.k_proj")), cache.length)
        v = self._split(w.linear(h, f"{name}.self_attn.v_proj"))
        keys, values = cache.extend(index, k, v)
        x = x + w.linear(attend(q, keys, values, first=cache.length), f"{name}.self_attn.o_proj")
        h = self._norm(x, f"{name}.post_attention_layernorm")
        gate = w.linear(h, f"{name}.mlp.gate_proj")
        # exp of a large -gate overflows to inf, and gate / inf is the right limit, -0.
        with np.errstate(over="ignore"):
            gate = gate / (1.0 + np.exp(-gate))
        return x + w.linear(gate * w.linear(h, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj")

    def _head(self, x: F64) -> F64:
        return self._norm(x, "model.norm") @ self.weights[self.head_name].T

    def _norm(self, x: F64, name: str) -> F64:
        scaled: F64 = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps)
        return scaled * self.weights[f"{name}.weight"]

    def _split(self, x: F64) -> F64:
        """(tokens, heads * width) -> (heads, tokens, width)."""
        return x.reshape(len(x), -1, self.width).transpose(1, 0, 2)

    def _rotate(self, x: F64, first: int) -> F64:
        """Rotate the pairs (i, i + width/2) of `x` (heads, tokens, width) by position x frequency i."""
        angles = np.arange(first, first + x.shape[1])[:, None] * self.frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def inverse_frequencies(config: Mapping[str, object], width: int) -> F64:
    """Radians a position of each of the `width`/2 rotary pairs, after the configured scaling.

    Reads `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (4), also its older key "type".
    Raises BadInput on a scaling other than default, linear and llama3, and on a partial rotation.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise BadInput(f"config rope_parameters = {rope!r}: a mapping is wanted")
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = number(rope if "rope_theta" in rope else config, "rope_theta", 10000.0)
    if float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) != 1.0 or width % 2:
        raise BadInput(f"the Llama oracle rotates whole heads of even width; here width {width}, {dict(rope)}")
    plain = theta ** -(np.arange(0, width, 2) / width)
    if kind == "default":
        return np.asarray(plain, dtype=np.float64)
    if kind not in ("linear", "llama3"):
        raise BadInput(f"rope_type {kind!r}: the Llama oracle knows default, linear and llama3")
    factor = number(rope, "factor")
    if kind == "linear":
        return np.asarray(plain / factor, dtype=np.float64)
    slow, fast = number(rope, "low_freq_factor"), number(rope, "high_freq_factor")
    turns = number(rope, "original_max_position_embeddings") * plain / (2 * np.pi)  # within the original context
    share = np.clip((turns - slow) / (fast - slow), 0.0, 1.0)  # 0: stretched by the factor, 1: as it was
    return np.asarray((1 - share) * plain / factor + share * plain, dtype=np.float64)
