"""The embedded models say something: runs do not collapse, margins are sane, rounding is small and quantisation shows.

Judged by the oracle in float64, which shares no code with transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle.registry import oracle_for
from genqual.models import weights
from genqual.models.registry import resolve

from .conftest import STEPS, TINY, Peer, ask, rows

Array = NDArray[Any]


@dataclass(frozen=True)
class Said:
    """Tokens (8, 50) of transformers' greedy run in fp32, and the oracle's logits (8, 50, vocabulary) before each."""

    tokens: list[list[int]]
    truth: Array


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def said(peer: Peer, model: str) -> Said:
    tokens = peer.answers[model]["tokens"]
    return Said(tokens, forced(model, weights.read(resolve(model)), tokens))


def forced(model: str, state: dict[str, Array], tokens: list[list[int]]) -> Array:
    oracle = oracle_for(weights.config(resolve(model)), state)
    return np.stack(
        [
            oracle.logits(prompt + chosen[:-1])[len(prompt) - 1 :]
            for prompt, chosen in zip(rows(model), tokens, strict=True)
        ]
    )


def nrms(logits: Array, truth: Array) -> float:
    error = (logits - logits.mean(-1, keepdims=True)) - (truth - truth.mean(-1, keepdims=True))
    return float(np.sqrt(np.mean(error**2)) / np.sqrt(np.mean((truth - truth.mean(-1, keepdims=True)) ** 2)))


def per_row(matrix: Array) -> Array:
    return np.asarray(np.abs(matrix).max(axis=1, keepdims=True) / 127)


def per_tensor(matrix: Array) -> Array:
    return np.asarray(np.abs(matrix).max() / 127)


def quantised(model: str, said: Said, scale: Callable[[Array], Array]) -> float:
    """nrms of the model with int8 weights, embeddings and head left alone, forced along the fault-free tokens."""
    state = {
        name: np.round(w / scale(w)) * scale(w) if w.ndim == 2 and "embed" not in name and "lm_head" not in name else w
        for name, w in weights.read(resolve(model)).items()
    }
    return nrms(forced(model, state, [chosen[:STEPS] for chosen in said.tokens]), said.truth[:, :STEPS])


def test_greedy_runs_do_not_collapse(said: Said) -> None:
    assert min(len(set(chosen)) for chosen in said.tokens) >= 20


@pytest.mark.heavy
@pytest.mark.parametrize("large", ["bloom-30m", "llama-30m"])
def test_greedy_runs_of_the_timing_models_do_not_collapse(tmp_path: Path, large: str) -> None:
    question = {"kind": "model", "model": large, "dtypes": ["fp32"], "rows": rows(large), "new_tokens": 50, "steps": 1}
    found = ask(tmp_path, {large: question})[large]["tokens"]
    assert min(len(set(chosen)) for chosen in found) >= 20


def test_the_choice_is_neither_certain_nor_arbitrary(said: Said) -> None:
    odds = np.exp(said.truth - said.truth.max(-1, keepdims=True))
    best = (odds / odds.sum(-1, keepdims=True)).max(-1)
    assert 0.1 < np.median(best) < 0.4
    assert np.quantile(best, 0.9) < 0.8
    second, first = np.sort(said.truth, axis=-1)[..., -2:].reshape(-1, 2).T
    assert 0.3 < np.median(first - second) < 1.0


def test_transformers_in_fp32_is_as_right_as_fp32_can_be(peer: Peer, model: str, said: Said) -> None:
    assert said.truth.argmax(-1).tolist() == said.tokens
    assert nrms(np.load(peer.room / f"{model}-fp32.npy"), said.truth[:, :STEPS]) <= 2e-6


def test_int8_shows_and_one_scale_a_tensor_shows_more(peer: Peer, model: str, said: Said) -> None:
    fault_free = nrms(np.load(peer.room / f"{model}-bf16.npy"), said.truth[:, :STEPS])
    row, tensor = quantised(model, said, per_row), quantised(model, said, per_tensor)
    assert row > 1.5 * fault_free, "int8 with a scale a row passes for bf16"
    assert tensor > 5 * fault_free
    assert tensor > 2.5 * row
