"""What every engine must satisfy, stated once; the tests of each engine call it."""

from __future__ import annotations

import numpy as np

from .harness import Answers, nrms

FLOOR = 3e-6  # fault-free fp32 against float64 reads 1e-6 and less; the smallest fault tried reads 1e-4


def decoding_is_right(answers: Answers, model: str) -> None:
    """Decoding forced tokens gives the logits of an exact pass over each row alone, and so does the one pass."""
    exact = answers[f"{model}.exact.logits"]
    assert nrms(answers[f"{model}.score.logits"], exact) < FLOOR
    assert nrms(answers[f"{model}.one_pass.logits"], exact) < FLOOR


def same_tokens(answers: Answers, reference: Answers, model: str) -> None:
    """Greedy tokens of both batches equal the reference's, and are not one token for ever."""
    for batch in ("padded", "level"):
        tokens = answers[f"{model}.{batch}.tokens"]
        assert tokens.tolist() == reference[f"{model}.{batch}.tokens"].tolist()
        assert len(np.unique(tokens)) > 6


def fault_shows(answers: Answers, model: str, name: str) -> None:
    """The fault moves the statistics, and taking it back restores them bit by bit, weights included."""
    fault_free = answers[f"{model}.score.projections"]
    with_fault, finite = answers[f"{model}.{name}.decode"], answers[f"{model}.{name}.finite"]
    assert not finite.all() if name.startswith("nan") else nrms(with_fault, fault_free) > 1e-4
    assert np.array_equal(answers[f"{model}.{name}.healed"], fault_free)
    assert answers[f"{model}.{name}.hash_after"] == answers[f"{model}.facts.weight_hash"]


def callback_runs_between_steps(answers: Answers, key: str) -> None:
    """Each of five steps waits 20 ms for the callback, within its own time, and says the same tokens with it.

    Once it is taken away it is called no more.
    """
    assert answers[f"{key}.calls"] == 5
    assert answers[f"{key}.calls_after"] == 0
    assert answers[f"{key}.with"].tolist() == answers[f"{key}.tokens"].tolist()
    assert (np.diff(answers[f"{key}.with_s"]) > 0.02).all()
