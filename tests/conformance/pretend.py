"""A pretended model and engine, so that what is right is known by construction. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.references.make import Reference, make, with_envelope
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores

VOCABULARY = 64
PROMPTS = [[1], [2, 3], [4, 5, 6]]
STEPS = 6
SIGMA = 0.02  # RMS error, logit units, of the pretended fault-free bf16

F64 = NDArray[np.float64]


class TableOracle:
    """Logits that depend on the last token only: row `table[last]`, (vocabulary, vocabulary)."""

    architecture = "table"
    independent = True

    def __init__(self, table: F64) -> None:
        self.table, self.vocabulary = table, len(table)

    def logits(self, ids: Sequence[int] | NDArray[np.int64]) -> F64:
        return np.asarray(self.table[np.asarray(ids)])

    def greedy(self, prompt: Sequence[int] | NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        chosen = [int(prompt[-1])]
        for _ in range(steps):
            chosen.append(int(self.table[chosen[-1]].argmax()))
        return np.array(chosen[1:])


def table(seed: int = 0, vocabulary: int = VOCABULARY) -> F64:
    return np.random.default_rng(seed).standard_normal((vocabulary, vocabulary))


def forced_logits(oracle: Any, reference: Reference) -> F64:
    """The oracle's own logits (steps, rows, vocabulary) on the reference's tokens."""
    rows = [
        oracle.logits([*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        for prompt, tokens in zip(reference.prompts, reference.forced, strict=True)
    ]
    return np.stack(rows, axis=1)


def noise(shape: tuple[int, ...], seed: int, sigma: float = SIGMA) -> F64:
    return np.random.default_rng(seed).standard_normal(shape) * sigma


def referred(prompts: list[list[int]] = PROMPTS, steps: int = STEPS) -> tuple[Reference, F64]:
    """A reference with a bf16 envelope, and the oracle's logits it was made of."""
    oracle = TableOracle(table())
    bare = make("table", "f" * 64, oracle, prompts, steps)
    logits = forced_logits(oracle, bare)
    fault_free = {f"pretended run {n}": scores_of(logits + noise(logits.shape, 1000 + n), bare.forced) for n in (1, 2)}
    return with_envelope(bare, "bf16", fault_free), logits


def scored(logits: F64, reference: Reference) -> Scores:
    return scores_of(logits, reference.forced)
