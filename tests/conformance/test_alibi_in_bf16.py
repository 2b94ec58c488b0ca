"""Why property 25 is not applicable to ALiBi in 16 bits: the biases themselves, rounded, are enough."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle import attention
from genqual.conformance.oracle.registry import oracle_for
from genqual.models import weights
from genqual.models.registry import resolve

POSITIONS = 256
F64 = NDArray[np.float64]


def bf16(x: F64) -> F64:
    """The nearest bf16, ties to even: the upper half of an fp32."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def rounding(q: F64, k: F64, v: F64, *, first: int, slopes: F64, **others: None) -> F64:
    """Attention in float64 but for the biases, and the scores they are added to, which are bf16 as in transformers."""
    assert not any(value is not None for value in others.values())  # BLOOM has neither window, cap nor sinks
    heads, queries, width = q.shape
    positions = np.arange(k.shape[1])
    scores = bf16(bf16(q @ k.transpose(0, 2, 1) / np.sqrt(width)) + bf16(slopes[:, None, None] * positions))
    scores[:, positions > first + np.arange(queries)[:, None]] = -np.inf
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed: F64 = (shares / shares.sum(axis=-1, keepdims=True)) @ v
    return mixed.transpose(1, 0, 2).reshape(queries, heads * width)


def test_rounded_biases_alone_leave_the_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    """bloom-tiny in bf16 reads 0.16 at 256 positions; float64 but for the biases is as wrong there, and not near."""
    spec = resolve("bloom-tiny")
    oracle = oracle_for(weights.config(spec), weights.read(spec))
    ids = np.random.default_rng(0).integers(0, oracle.vocabulary, POSITIONS)
    exact = oracle.logits(ids)
    monkeypatch.setattr(attention, "attend", rounding)
    rounded = oracle.logits(ids)
    near, far = (
        float(np.sqrt(np.square(rounded[some] - exact[some]).mean()) / exact[some].std())
        for some in (slice(0, 48), slice(POSITIONS - 48, POSITIONS))
    )
    assert near < 0.035 < 0.15 < far
