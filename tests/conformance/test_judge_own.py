"""What a run says of itself: each judgement passes on sound scores and fails on the one thing it guards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genqual.conformance.judges import self_checks
from genqual.conformance.scores import scores_of
from genqual.engines.base import Scores

STEPS, ROWS, VOCABULARY = 5, 3, 40


def drawn(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64], Scores]:
    """Logits (steps, rows, vocabulary), their argmax as tokens (rows, steps), and the scores of both."""
    logits = np.random.default_rng(seed).normal(size=(STEPS, ROWS, VOCABULARY))
    tokens = np.ascontiguousarray(logits.argmax(axis=-1).T)
    return logits, tokens, scores_of(logits, tokens)


cells = st.tuples(st.integers(0, STEPS - 1), st.integers(0, ROWS - 1))


def test_sound_scores_pass() -> None:
    _, tokens, scores = drawn()
    assert self_checks.judge_finite(scores, dtype="bf16").passed
    assert self_checks.judge_choice(tokens, scores, dtype="bf16").passed


@given(cell=cells, bad=st.sampled_from([np.nan, np.inf, -np.inf]), column=st.integers(0, VOCABULARY - 1))
def test_one_logit_that_is_not_finite_fails(cell: tuple[int, int], bad: float, column: int) -> None:
    logits, tokens, _ = drawn()
    logits[(*cell, column)] = bad
    scores = scores_of(logits, tokens)
    for judgement in (
        self_checks.judge_finite(scores, dtype="bf16"),
        self_checks.judge_choice(tokens, scores, dtype="bf16"),
    ):
        assert not judgement.passed
        assert f"step {cell[0]} of prompt {cell[1]}" in judgement.explanation.lower()


@given(cell=cells, rank=st.integers(1, VOCABULARY - 1))
def test_a_token_that_is_not_the_argmax_fails(cell: tuple[int, int], rank: int) -> None:
    logits, tokens, _ = drawn()
    step, row = cell
    tokens[row, step] = np.argsort(-logits[step, row])[rank]
    judgement = self_checks.judge_choice(tokens, scores_of(logits, tokens), dtype="fp32")
    assert not judgement.passed
    assert judgement.flips == 1
    assert judgement.worst == cell


def test_a_tie_is_nobodys_fault() -> None:
    logits, tokens, _ = drawn()
    other = (tokens[0, 0] + 1) % VOCABULARY
    logits[0, 0, other] = logits[0, 0, tokens[0, 0]]
    tokens[0, 0] = other
    assert self_checks.judge_choice(tokens, scores_of(logits, tokens), dtype="bf16").passed


def test_another_count_of_tokens_fails() -> None:
    _, tokens, scores = drawn()
    assert not self_checks.judge_choice(tokens[:, :-1], scores, dtype="fp32").passed


@given(rank=st.integers(1, 3), cell=cells, by=st.sampled_from([-1, 1]))
def test_a_rank_that_chose_otherwise_is_named(rank: int, cell: tuple[int, int], by: int) -> None:
    _, tokens, _ = drawn()
    ranks = [tokens.copy() for _ in range(4)]
    assert self_checks.judge_agreement(ranks, dtype="fp32").passed
    ranks[rank][cell[1], cell[0]] += by
    judgement = self_checks.judge_agreement(ranks, dtype="fp32")
    assert not judgement.passed
    assert judgement.explanation.startswith(f"Rank {rank} chose")


def test_ranks_of_unequal_shape_fail_and_one_rank_is_no_question() -> None:
    _, tokens, _ = drawn()
    assert not self_checks.judge_agreement([tokens, tokens[:, :-1]], dtype="fp32").passed
    with pytest.raises(ValueError, match="needs two"):
        self_checks.judge_agreement([tokens], dtype="fp32")


def test_a_changed_weight_hash_fails() -> None:
    assert self_checks.judge_unmutated(["a", "b"], ["a", "b"], dtype="fp32").passed
    judgement = self_checks.judge_unmutated(["a", "b"], ["a", "c"], dtype="fp32")
    assert not judgement.passed
    assert "rank 1" in judgement.explanation


def test_a_data_set_with_a_problem_or_without_prompts_fails() -> None:
    assert self_checks.judge_whole([], 3, dtype="fp32").passed
    assert not self_checks.judge_whole([], 0, dtype="fp32").passed
    assert "pair 1" in self_checks.judge_whole(["pair 1 is gone", "pair 2 is gone"], 3, dtype="fp32").explanation


def test_rows_of_keeps_every_statistic_of_the_rows() -> None:
    logits, tokens, scores = drawn()
    chosen = self_checks.rows_of(replace(scores, logits=logits.astype(np.float32)), [2, 0])
    direct = scores_of(logits[:, [2, 0]], tokens[[2, 0]])
    for name in ("projections", "top_ids", "top_logits", "logsumexp", "forced_logit", "finite"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(direct, name))
    assert chosen.logits is not None
    np.testing.assert_array_equal(chosen.logits, logits[:, [2, 0]].astype(np.float32))
