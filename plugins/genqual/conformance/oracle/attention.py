"""Softmax attention over keys that are kept: grouped heads, windows, ALiBi, soft caps, sinks, query-key norms.

Sources: Vaswani et al. 2017; Ainslie et al. 2023 (grouped queries); Press et al. 2022 (ALiBi and its slopes for head
counts that are not a power of two); Beltagy et al. 2020 (windows); Gemma 2's report (soft caps); Xiao et al. 2023 and
gpt-oss's model card (sinks: a logit of each head that takes part in the sum and has no value).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from genqual.conformance.oracle.core import F64, I64, At, Part, Shape
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary import Rotary

# Queries a block of attention: bounds the score matrix to (heads, 128, keys), whatever the length.
_BLOCK: Final = 128


def attend(
    q: F64,
    k: F64,
    v: F64,
    *,
    first: int,
    slopes: F64 | None = None,
    scale: float | None = None,
    window: int | None = None,
    cap: float | None = None,
    sinks: F64 | None = None,
    bias: F64 | None = None,
    rounded: Callable[[F64], F64] | None = None,
) -> F64:
    """Causal attention: `q` (heads, queries, d), `k` (kv_heads, keys, d), `v` (kv_heads, keys, e).

    Gives (queries, heads * e).

    Query i stands at position `first + i` and sees the keys up to it, the last `window` of them where one is given.
    Scores are divided by sqrt(d), or multiplied by `scale`; `cap` makes them cap * tanh(score / cap). `slopes` (heads,)
    adds ALiBi's slope x key position: softmax ignores what is constant in a row, so the distance to the query need not
    be subtracted; `bias` (heads, keys) adds what else depends on head and key position alone. `sinks` (heads,) are
    logits beside the keys', without a value. `rounded` is applied to scores, biases and probabilities: what an
    emulation of a narrow dtype rounds; without it nothing is.
    """
    heads, queries, width = q.shape
    k, v = (np.repeat(a, heads // a.shape[0], axis=0) for a in (k, v))
    positions = np.arange(k.shape[1])
    out = np.empty((heads, queries, v.shape[-1]))
    for start in range(0, queries, _BLOCK):
        block = slice(start, min(start + _BLOCK, queries))
        # The keys that any of these queries sees: what all of them mask need not be computed.
        seen = slice(max(0, first + start + 1 - window) if window is not None else 0, first + block.stop)
        scores = q[:, block] @ k[:, seen].transpose(0, 2, 1)
        scores = scores / np.sqrt(width) if scale is None else scores * scale
        if cap is not None:
            scores = cap * np.tanh(scores / cap)
        for added in _biases(slopes, None if bias is None else bias[:, seen], positions[seen]):
            scores = scores + (rounded(added) if rounded else added)
        if rounded:
            scores = rounded(scores)
        here = first + np.arange(block.start, block.stop)[:, None]
        scores[:, positions[seen] > here] = -np.inf
        if window is not None:
            scores[:, positions[seen] <= here - window] = -np.inf
        most = scores.max(axis=-1, keepdims=True)
        if sinks is not None:
            most = np.maximum(most, sinks[:, None, None])
        scores = np.exp(scores - most)
        total = scores.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sinks[:, None, None] - most)
        out[:, block] = rounded(scores / total) @ v[:, seen] if rounded else scores @ v[:, seen] / total
    return out.transpose(1, 0, 2).reshape(queries, heads * v.shape[-1])


def _biases(slopes: F64 | None, bias: F64 | None, positions: I64) -> list[F64]:
    """What is added to scores, each of a shape that spreads to (heads, queries, keys)."""
    alibi = [] if slopes is None else [slopes[:, None, None] * positions]
    return alibi + ([] if bias is None else [bias[:, None, :]])


def alibi_slopes(heads: int) -> F64:
    """ALiBi's slope of each head, (heads,): 2^(-8i/n) for a power of two n, then every second slope of 2n."""
    power = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * (heads - power) + 1, 2) / power)
    return np.concatenate([slopes, between])


def split(x: F64, width: int) -> F64:
    """(tokens, heads * width) -> (heads, tokens, width)."""
    return x.reshape(len(x), -1, width).transpose(1, 0, 2)


@dataclass(frozen=True)
class Separate:
    """Three linears, each of heads in a row."""

    query: Linear
    key: Linear
    value: Linear

    def shapes(self) -> dict[str, Shape]:
        return self.query.shapes() | self.key.shapes() | self.value.shapes()

    def __call__(self, x: F64, at: At) -> tuple[F64, F64, F64]:
        """Queries, keys and values, (tokens, heads * width) each."""
        return self.query(x, at), self.key(x, at), self.value(x, at)


@dataclass(frozen=True)
class Blocks:
    """One linear: all queries, then all keys, then all values, of these widths."""

    fused: Linear
    queries: int
    keys: int

    def shapes(self) -> dict[str, Shape]:
        return self.fused.shapes()

    def __call__(self, x: F64, at: At) -> tuple[F64, F64, F64]:
        """Queries, keys and values, (tokens, heads * width) each."""
        q, k, v = np.split(self.fused(x, at), [self.queries, self.queries + self.keys], axis=-1)
        return q, k, v


@dataclass(frozen=True)
class Groups:
    """One linear: of each of `groups`, its `each` query heads, then one key head, then one value head, `width` wide."""

    fused: Linear
    groups: int
    each: int
    width: int

    def shapes(self) -> dict[str, Shape]:
        return self.fused.shapes()

    def __call__(self, x: F64, at: At) -> tuple[F64, F64, F64]:
        """Queries, keys and values, (tokens, heads * width) each."""
        heads = self.fused(x, at).reshape(len(x), self.groups, self.each + 2, self.width)
        queries, keys, values = heads[:, :, : self.each], heads[:, :, -2], heads[:, :, -1]
        return queries.reshape(len(x), -1), keys.reshape(len(x), -1), values.reshape(len(x), -1)


@dataclass(frozen=True)
class Attention(Part):
    """Attention with its projections; `out` mixes the heads.

    `query_norm` and `key_norm` norm each head, or the whole projection when `whole_norms`, before the rotation.
    `clip` bounds what the projections give. `sinks` names a weight (heads,). `slopes` (heads,) are ALiBi's, and
    `bias(keys)` (heads, keys) is what else is added to the scaled scores.
    """

    qkv: Separate | Blocks | Groups
    out: Linear
    heads: int
    kv_heads: int
    width: int
    rotary: Rotary | None = None
    window: int | None = None
    scale: float | None = None
    cap: float | None = None
    slopes: F64 | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    whole_norms: bool = False
    clip: float | None = None
    sinks: str | None = None
    bias: Callable[[int], F64] | None = None

    def shapes(self) -> dict[str, Shape]:
        shapes = self.qkv.shapes() | self.out.shapes()
        for norm in (self.query_norm, self.key_norm):
            shapes |= norm.shapes() if norm else {}
        return shapes | ({self.sinks: (self.heads,)} if self.sinks else {})

    def ends(self) -> tuple[str, str]:
        first = self.qkv.key if isinstance(self.qkv, Separate) else self.qkv.fused
        return first.name, self.out.name

    def state_elements(self, length: int) -> int:
        """Keys and values of the tokens that a later token can still see."""
        seen = length if self.window is None else min(length, self.window)
        return 2 * self.kv_heads * self.width * seen

    @property
    def attention_window(self) -> int | None:
        return self.window

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden)."""
        return self.out(self.mixed(x, at), at)

    def mixed(self, x: F64, at: At) -> F64:
        """What enters `out`: (tokens, heads * width)."""
        q, k, v = self.heads_of(x, at)
        keys, values = at.state.extend("keys", k), at.state.extend("values", v)
        return self.attended(
            q,
            keys,
            values,
            first=at.first,
            slopes=self.slopes,
            scale=self.scale,
            window=self.window,
            cap=self.cap,
            sinks=at.weights[self.sinks] if self.sinks else None,
            bias=self.bias(keys.shape[1]) if self.bias else None,
        )

    def attended(self, q: F64, k: F64, v: F64, **how: Any) -> F64:
        """`attend`, as a method: an emulation of a narrow dtype has one that rounds."""
        return attend(q, k, v, **how)

    def heads_of(self, x: F64, at: At) -> tuple[F64, F64, F64]:
        """Queries, keys and values of these tokens, normed and rotated, (heads, tokens, width) each."""
        q, k, v = self.qkv(x, at)
        if self.clip is not None:
            q, k, v = (np.clip(a, -self.clip, self.clip) for a in (q, k, v))
        if self.whole_norms:
            q, k = self._normed(q, k, at)
        q, k, v = (split(a, self.width) for a in (q, k, v))
        if not self.whole_norms:
            q, k = self._normed(q, k, at)
        if self.rotary:
            q, k = self.rotary(q, at.first), self.rotary(k, at.first)
        return q, k, v

    def _normed(self, q: F64, k: F64, at: At) -> tuple[F64, F64]:
        q = self.query_norm(q, at) if self.query_norm else q
        return q, self.key_norm(k, at) if self.key_norm else k
