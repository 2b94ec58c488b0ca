"""The judge of logits: what it must not depend on, what it must see, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genqual.conformance.judges.logits import fp32_limit_at, judge_scores, nrms
from genqual.conformance.references.make import Reference, make
from genqual.conformance.scores import scores_of
from genqual.engines.projection import project

from .pretend import PROMPTS, SIGMA, STEPS, TableOracle, forced_logits, noise, referred, scored, table

REFERENCE, LOGITS = referred()
PRECISION_MODES = pytest.mark.parametrize("dtype", ["fp32", "bf16"])
SEEDS = st.integers(0, 2**32 - 1)
STEP, ROW, COLUMN = st.integers(0, STEPS - 1), st.integers(0, len(PROMPTS) - 1), st.integers(0, 63)


def judged(logits: NDArray[Any], dtype: str = "bf16", reference: Reference = REFERENCE) -> Any:
    return judge_scores(scored(logits, reference), reference, dtype=dtype)


@PRECISION_MODES
def test_the_oracle_itself_passes(dtype: str) -> None:
    verdict = judged(LOGITS, dtype)
    assert verdict.passed
    assert (verdict.nrms, verdict.flips, verdict.judged, verdict.tier) == (0.0, 0, 18, "logits")


@given(seed=SEEDS)
def test_an_honest_run_passes_its_lane_and_not_the_other(seed: int) -> None:
    run = LOGITS + noise(LOGITS.shape, seed)
    fault_free = judged(run)
    assert fault_free.passed, fault_free.explanation
    assert fault_free.lane == "declared"
    assert 0.8 < fault_free.ratio < 1.2
    assert not judged(run, "fp32").passed


@given(seed=SEEDS, sigma=st.sampled_from([0.0, 1e-6, SIGMA, 0.1]), dtype=st.sampled_from(["fp32", "bf16"]))
def test_a_constant_added_to_a_row_changes_nothing(seed: int, sigma: float, dtype: str) -> None:
    run = LOGITS + noise(LOGITS.shape, seed, sigma)
    shifts = np.random.default_rng(seed).uniform(-50, 50, (*LOGITS.shape[:2], 1))
    plain, shifted = judged(run, dtype), judged(run + shifts, dtype)
    assert (plain.status, plain.flips, plain.flips_beyond_margin) == (
        shifted.status,
        shifted.flips,
        shifted.flips_beyond_margin,
    )
    assert shifted.nrms == pytest.approx(plain.nrms, rel=1e-3, abs=1e-7)


@given(seed=SEEDS, factor=st.floats(0.01, 100), sigma=st.sampled_from([3e-6, 3e-5, 0.3]))
def test_the_unit_of_logits_does_not_matter(seed: int, factor: float, sigma: float) -> None:
    scaled = make("scaled", "0", TableOracle(table() * factor), PROMPTS, STEPS)
    run = LOGITS + noise(LOGITS.shape, seed, sigma)
    plain, other = judged(run, "fp32"), judged(run * factor, "fp32", scaled)
    assert other.nrms == pytest.approx(plain.nrms, rel=1e-2)
    assert other.status == plain.status


def test_scaled_logits_are_wrong_although_no_choice_changes() -> None:
    verdict = judged(LOGITS * 1.001, "fp32")
    assert verdict.flips == 0
    assert verdict.nrms == pytest.approx(1e-3, rel=0.05)
    assert not verdict.passed


@given(step=STEP, row=ROW, column=COLUMN, value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_logit_that_is_not_finite_fails(step: int, row: int, column: int, value: float) -> None:
    run = LOGITS.copy()
    run[step, row, column] = value
    for dtype in ("fp32", "bf16"):
        verdict = judged(run, dtype)
        assert verdict.status == "fail"
        assert f"first at step {step} of prompt {row}" in verdict.explanation


@PRECISION_MODES
@pytest.mark.parametrize("name", ["projections", "top_logits", "logsumexp"])
def test_a_rank_that_calls_nan_finite_fails(name: str, dtype: str) -> None:
    scores = scored(LOGITS, REFERENCE)
    array = getattr(scores, name).copy()
    array[2, 1] = np.nan
    verdict = judge_scores(replace(scores, **{name: array}), REFERENCE, dtype=dtype)
    assert verdict.status == "fail"
    assert "not finite in 1 of 18 choices, first at step 2 of prompt 1" in verdict.explanation


@given(seed=SEEDS, swap=st.booleans())
def test_a_damaged_vocabulary_row_outside_every_top_is_seen(seed: int, swap: bool) -> None:
    quiet = np.setdiff1d(np.arange(LOGITS.shape[-1]), np.unique(REFERENCE.top_ids[..., :2]))
    one, two = np.random.default_rng(seed).permutation(quiet)[:2]
    run = LOGITS.copy()
    run[..., one] = LOGITS[..., two] if swap else 0.0
    run[..., two] = LOGITS[..., one] if swap else LOGITS[..., two]
    best = run.argmax(-1) == LOGITS.argmax(-1)
    verdict = judged(run, "fp32")
    assert verdict.flips == int((~best).sum())
    assert not verdict.passed
    assert verdict.nrms > 1e-3


@settings(max_examples=40)
@given(seed=SEEDS, rank=st.sampled_from([1, 8, 1024]), one_row=st.booleans())
def test_projections_measure_what_whole_logits_measure(seed: int, rank: int, one_row: bool) -> None:
    """Of 256 signs, whatever the shape of the error: white, of low rank as after a projection, or in few columns."""
    random = np.random.default_rng(seed)
    cells, vocabulary = 32, 1024
    error = random.standard_normal((cells, rank)) @ random.standard_normal((rank, vocabulary))
    if one_row:
        error[:, random.permutation(vocabulary)[1:]] = 0.0
    centred = error - error.mean(-1, keepdims=True)
    full = np.sqrt((centred**2).mean())
    projected = np.sqrt((project(error).astype(np.float64) ** 2).mean())
    # One direction alone is an average of 256 squares: standard deviation 4.4 %.
    assert projected == pytest.approx(full, rel=0.2 if rank == 1 else 0.1)


@given(seed=SEEDS, sigma=st.floats(1e-7, 0.5), more=st.floats(1.0, 20.0), dtype=st.sampled_from(["fp32", "bf16"]))
def test_more_of_the_same_error_never_passes_again(seed: int, sigma: float, more: float, dtype: str) -> None:
    error = noise(LOGITS.shape, seed, sigma)
    less, worse = judged(LOGITS + error, dtype), judged(LOGITS + more * error, dtype)
    assert worse.nrms >= less.nrms * 0.999
    assert less.passed or not worse.passed


def test_a_flip_beyond_its_margin_fails_however_small_the_error() -> None:
    """Two logits changed places where the oracle is sure, in one choice of 800."""
    many, logits = referred([[i] for i in range(40)], 20)
    step, row = (int(i) for i in np.argwhere((many.margins > 12 * SIGMA) & (many.margins < 20 * SIGMA))[0])
    first, second = many.top_ids[step, row, :2]
    run = logits.copy()
    run[step, row, [first, second]] = run[step, row, [second, first]]
    verdict = judged(run, "bf16", many)
    assert verdict.ratio < 1
    assert (verdict.status, verdict.flips, verdict.flips_beyond_margin) == ("fail", 1, 1)
    assert verdict.worst == (step, row)
    margin = f"{many.margins[step, row]:.4g}"
    for word in (f"step {step} of prompt {row} chose {second}", f"the oracle {first}", margin):
        assert word in verdict.explanation


def test_a_flip_within_its_margin_is_counted_and_allowed() -> None:
    near = table()
    prompt, best = 1, int(near[1].argmax())
    other = (best + 1) % len(near)
    near[prompt, other] = near[prompt, best] - 1e-3
    oracle = TableOracle(near)
    bare = make("near", "0", oracle, PROMPTS, STEPS)
    logits = forced_logits(oracle, bare)
    reference = replace(bare, envelopes=REFERENCE.envelopes)
    run = logits.copy()
    run[0, 0, other] += 2e-3
    verdict = judged(run, "bf16", reference)
    assert verdict.passed
    assert (verdict.flips, verdict.flips_beyond_margin) == (1, 0)
    assert not judged(run, "fp32", reference).passed


def test_one_bad_cell_that_the_pool_dilutes_fails() -> None:
    many = make("many", "0", TableOracle(table()), [[i] for i in range(40)], 20)
    logits = forced_logits(TableOracle(table()), many)
    run = logits + noise(logits.shape, 5, 1e-6)
    run[7, 30] += noise(run[7, 30].shape, 6, 2e-4)
    verdict = judged(run, "fp32", many)
    assert verdict.nrms < 1e-5
    assert verdict.flips == 0
    assert not verdict.passed
    assert "step 7 of prompt 30" in verdict.explanation


@pytest.mark.parametrize(("sigma", "passes"), [(9e-6, True), (1.2e-5, False)])
def test_the_fp32_limit(sigma: float, passes: bool) -> None:
    verdict = judged(LOGITS + noise(LOGITS.shape, 1, sigma * REFERENCE.pooled_spread), "fp32")
    assert (verdict.passed, verdict.lane, verdict.limit) == (passes, "fp32", 1e-5)
    assert verdict.nrms == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize(("factor", "passes"), [(1.1, True), (1.45, False)])
def test_the_declared_limit(factor: float, passes: bool) -> None:
    verdict = judged(LOGITS + noise(LOGITS.shape, 2, SIGMA * factor))
    assert verdict.passed is passes
    assert verdict.limit == pytest.approx(1.25 * REFERENCE.envelopes["bf16"].nrms)


def test_long_rows_have_a_wider_fp32_limit() -> None:
    assert fp32_limit_at(10) == fp32_limit_at(1024) == 1e-5
    assert fp32_limit_at(4096) == 4e-5
    long = make("long", "0", TableOracle(table()), [[1] * 2048], STEPS)
    assert judged(forced_logits(TableOracle(table()), long), "fp32", long).limit == pytest.approx(1e-5 * 2054 / 1024)


def test_nothing_to_judge_by_is_a_status_and_no_pass() -> None:
    for reference, dtype in ((None, "bf16"), (REFERENCE, "int8"), (replace(REFERENCE, envelopes={}), "bf16")):
        verdict = judge_scores(scored(LOGITS, REFERENCE), reference, dtype=dtype)
        assert verdict.status == "no_reference"
        assert not verdict.passed
        assert verdict.nrms is None


@PRECISION_MODES
def test_scores_of_another_shape_fail(dtype: str) -> None:
    short = scores_of(LOGITS[:-1], REFERENCE.forced[:, :-1])
    verdict = judge_scores(short, REFERENCE, dtype=dtype)
    assert verdict.status == "fail"
    assert "6 x 3" in verdict.explanation
    cut = replace(scored(LOGITS, REFERENCE), top_ids=np.zeros((6, 2, 16), np.int64))
    assert judge_scores(cut, REFERENCE, dtype=dtype).status == "fail"


def test_a_verdict_says_that_the_oracle_was_not_independent() -> None:
    verdict = judged(LOGITS + 1.0 * noise(LOGITS.shape, 0, 1e-7), "fp32", replace(REFERENCE, independent=False))
    assert verdict.independent is False
    assert "not independent" in verdict.explanation
    assert judged(LOGITS, "fp32").independent is True


def test_a_selection_is_judged_like_the_whole() -> None:
    rows, steps = [2, 0], 3
    part = REFERENCE.select(rows=rows, steps=steps)
    run = LOGITS + noise(LOGITS.shape, 3)
    verdict = judged(run[:steps, rows], "bf16", part)
    assert verdict.passed, verdict.explanation
    swapped = judged(run[:steps, rows[::-1]], "bf16", part)
    assert not swapped.passed


def test_the_statistic_is_its_definition() -> None:
    error = noise(LOGITS.shape, 4, 0.1)
    run = LOGITS + error
    centred = error - error.mean(-1, keepdims=True)
    wanted = np.sqrt((centred**2).mean() / LOGITS.var(axis=-1).mean())
    assert nrms(scored(run, REFERENCE).projections, REFERENCE) == pytest.approx(wanted, rel=0.05)


def test_a_verdict_is_plain_data() -> None:
    data = judged(LOGITS).as_json()
    assert data["status"] == "pass"
    assert data["passed"] is True
    assert data["worst"] is not None
