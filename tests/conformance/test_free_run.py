"""Free greedy runs on hand-made references: equal, fault-free divergence, and each way to be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genqual.conformance.judges.logits import judge_free_run
from genqual.conformance.references.make import make, with_envelope

from .pretend import PROMPTS, SIGMA, STEPS, TableOracle, forced_logits, noise, scored, table

BOUND = 8 * SIGMA


def chain() -> NDArray[np.float64]:
    """Token i is followed by i + 1, by a margin of 1; only after 10 is 50 almost as good as 11."""
    logits = np.random.default_rng(1).uniform(-1, 0, (64, 64))
    logits[np.arange(64), (np.arange(64) + 1) % 64] = 2.0
    logits[np.arange(64), (np.arange(64) + 30) % 64] = 1.0
    logits[10, 50] = 2.0 - BOUND / 2
    return logits


ORACLE = TableOracle(chain())
BARE = make("chain", "0", ORACLE, [[8], [20]], STEPS)
_LOGITS = forced_logits(ORACLE, BARE)
REFERENCE = with_envelope(BARE, "bf16", {str(n): scored(_LOGITS + noise(_LOGITS.shape, n), BARE) for n in (1, 2)})
RIGHT = [[9, 10, 11, 12, 13, 14], [21, 22, 23, 24, 25, 26]]


def judged(rows: list[list[int]], *, rescore: bool = True, dtype: str = "bf16", reference: Any = REFERENCE) -> Any:
    return judge_free_run(np.array(rows), reference, dtype=dtype, rescore=ORACLE.logits if rescore else None)


def changed(row: int, **tokens: int) -> list[list[int]]:
    rows = [list(r) for r in RIGHT]
    for step, token in tokens.items():
        rows[row][int(step[1:])] = token
    return rows


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("rescore", [True, False])
def test_the_reference_itself_passes(dtype: str, rescore: bool) -> None:
    verdict = judged(RIGHT, dtype=dtype, rescore=rescore)
    assert verdict.passed
    assert (verdict.judged, verdict.total, verdict.flips, verdict.tier) == (12, 12, 0, "tokens")


def test_leaving_where_the_oracle_is_sure_fails() -> None:
    verdict = judged(changed(1, s3=7))
    assert verdict.status == "fail"
    assert verdict.worst == (3, 1)
    for words in ("step 3 of prompt 1 chose 7", "the oracle 24", "by 1"):
        assert words in verdict.explanation


def test_leaving_where_the_margin_allows_passes_when_the_rest_is_honest() -> None:
    own = changed(0, s2=50, s3=51, s4=52, s5=53)
    verdict = judged(own)
    assert verdict.passed, verdict.explanation
    assert (verdict.judged, verdict.total, verdict.flips) == (12, 12, 1)


def test_the_same_divergence_fails_in_the_fp32_lane() -> None:
    assert not judged(changed(0, s2=50, s3=51, s4=52, s5=53), dtype="fp32").passed


def test_a_wrong_choice_after_an_honest_divergence_fails() -> None:
    verdict = judged(changed(0, s2=50, s3=51, s4=3, s5=4))
    assert verdict.status == "fail"
    assert verdict.worst == (4, 0)
    assert "step 4 of prompt 0 chose 3" in verdict.explanation
    assert "52" in verdict.explanation


def test_without_rescoring_the_verdict_says_how_far_it_judged() -> None:
    verdict = judged(changed(0, s2=50, s3=51, s4=3, s5=4), rescore=False)
    assert verdict.passed
    assert (verdict.judged, verdict.total) == (3 + 6, 12)
    assert "9 of 12 choices judged; the rest" in verdict.explanation


@pytest.mark.parametrize("rescore", [True, False])
@pytest.mark.parametrize("token", [40, int(np.argmin(chain()[10]))])
def test_leaving_at_the_right_step_for_the_wrong_token_fails(rescore: bool, token: int) -> None:
    """Where 11 and 50 are close, 40 is 1 behind, and the last one is not even among the 16 that are listed."""
    verdict = judged(changed(0, s2=token, s3=21, s4=22, s5=23), rescore=rescore)
    assert verdict.status == "fail"
    assert verdict.worst == (2, 0)


def test_a_choice_that_the_reference_does_not_list_is_not_judged_by_it() -> None:
    flat = np.full((64, 64), -1.0)
    flat[:, :40] = 1.0 - 1e-3 * np.arange(40)
    bare = make("flat", "0", TableOracle(flat), [[8]], 3)
    reference = replace(bare, envelopes={"bf16": REFERENCE.select(rows=[0], steps=3).envelopes["bf16"]})
    verdict = judge_free_run(np.array([[0, 30, 0]]), reference, dtype="bf16")
    assert (verdict.passed, verdict.judged, verdict.total) == (True, 1, 3)
    assert judge_free_run(np.array([[0, 30, 0]]), reference, dtype="bf16", rescore=TableOracle(flat).logits).passed


def test_a_rescore_that_is_not_finite_fails() -> None:
    verdict = judge_free_run(
        np.array(changed(0, s2=50)), REFERENCE, dtype="bf16", rescore=lambda ids: ORACLE.logits(ids) * np.nan
    )
    assert verdict.status == "fail"


@pytest.mark.parametrize(
    "rows", [[RIGHT[0]], [r[:-1] for r in RIGHT], changed(0, s5=64), changed(0, s2=50 - 64, s3=51, s4=52, s5=53)]
)
def test_tokens_of_another_shape_or_vocabulary_fail(rows: list[list[int]]) -> None:
    assert judged(rows).status == "fail"


def test_nothing_to_judge_by_is_a_status() -> None:
    assert judged(RIGHT, reference=None).status == "no_reference"
    assert judged(RIGHT, dtype="fp16").status == "no_reference"


@given(seed=st.integers(0, 2**32 - 1))
def test_an_honest_engine_passes_however_its_text_goes(seed: int) -> None:
    """Every logit off by bf16's sigma: it leaves the text in many of these, and never where it may not."""
    exact = TableOracle(table(3))
    bare = make("table", "0", exact, PROMPTS, STEPS)
    logits = forced_logits(exact, bare)
    reference = with_envelope(bare, "bf16", {str(n): scored(logits + noise(logits.shape, n), bare) for n in (1, 2)})
    engine = TableOracle(table(3) + noise((64, 64), seed))
    tokens = np.stack([engine.greedy(prompt, STEPS) for prompt in PROMPTS])
    verdict = judge_free_run(tokens, reference, dtype="bf16", rescore=exact.logits)
    assert verdict.passed, verdict.explanation
    assert verdict.judged == verdict.total


@given(seed=st.integers(0, 2**32 - 1))
def test_a_random_text_never_passes(seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, 64, (2, STEPS))
    assert not judged(tokens.tolist()).passed


def test_an_id_at_the_edge_of_the_vocabulary_is_not_a_token() -> None:
    assert "ids below 64" in judged(changed(1, s5=64), rescore=False).explanation
    assert "ids below 64" not in judged(changed(1, s5=63), rescore=False).explanation
    assert judged(changed(1, s5=-1), rescore=False).status == "fail"


def test_what_was_judged_and_what_left_is_counted_where_nothing_is_scored_again() -> None:
    fault_free = judged(changed(0, s2=50), rescore=False)
    assert fault_free.passed
    assert (fault_free.judged, fault_free.flips, fault_free.flips_beyond_margin) == (6 + 3, 1, 0)
    wrong = judged(changed(0, s2=7), rescore=False)
    assert wrong.status == "fail"
    assert (wrong.judged, wrong.flips, wrong.flips_beyond_margin, wrong.worst) == (6 + 3, 1, 1, (2, 0))


@pytest.mark.parametrize("rows", [RIGHT, changed(1, s3=7)], ids=["right", "wrong"])
def test_a_verdict_says_that_the_oracle_was_not_independent(rows: list[list[int]]) -> None:
    verdict = judged(rows, reference=replace(REFERENCE, independent=False))
    assert verdict.independent is False
    assert "not independent" in verdict.explanation
    assert "not independent" not in judged(rows).explanation
