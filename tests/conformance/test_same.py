"""Two runs of one engine: metamorphic equality and equality in every bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genqual.conformance.judges.logits import judge_bitwise, judge_same

from .pretend import SIGMA, noise, referred, scored

REFERENCE, LOGITS = referred()
ENVELOPE = REFERENCE.envelopes["bf16"]
SEEDS = st.integers(0, 2**32 - 1)


def same(a: NDArray[Any], b: NDArray[Any], dtype: str = "bf16", **known: Any) -> Any:
    return judge_same(scored(a, REFERENCE), scored(b, REFERENCE), dtype=dtype, **known)


@given(one=SEEDS, two=SEEDS)
def test_two_honest_runs_are_the_same(one: int, two: int) -> None:
    a, b = (LOGITS + noise(LOGITS.shape, seed) for seed in (one, two))
    assert same(a, b, envelope=ENVELOPE, reference_spread=REFERENCE.pooled_spread).passed
    assert same(a, b, envelope=ENVELOPE).passed
    assert same(a, a, "fp32").passed
    assert one == two or not same(a, b, "fp32").passed


@pytest.mark.parametrize(("sigma", "passes"), [(5e-6, True), (5e-5, False)])
def test_the_fp32_limit_needs_no_envelope(sigma: float, passes: bool) -> None:
    verdict = same(LOGITS, LOGITS + noise(LOGITS.shape, 1, sigma), "fp32")
    assert (verdict.passed, verdict.lane, verdict.independent) == (passes, "fp32", None)


@pytest.mark.parametrize(("share", "passes"), [(1.0, True), (1.35, True), (1.5, False)])
def test_the_fp32_limit_is_that_of_two_errors(share: float, passes: bool) -> None:
    """Each may be 1e-5 from what is right: a right qwen3_next reads 1.33e-5 between two of its own runs."""
    error = noise(LOGITS.shape, 1, 1.0)
    unit = same(LOGITS, LOGITS + 1e-6 * error, "fp32").nrms / 1e-6
    verdict = same(LOGITS, LOGITS + share * 1e-5 / unit * error, "fp32")
    assert verdict.passed is passes
    assert verdict.limit == pytest.approx(2**0.5 * 1e-5)
    assert same(LOGITS, LOGITS, "fp32", exact=True).limit == 1e-5


@pytest.mark.parametrize(("factor", "passes"), [(1.5, True), (2.0, False)])
def test_the_declared_limit_is_that_of_two_errors(factor: float, passes: bool) -> None:
    """sqrt 2 x 1.25 = 1.77 of one envelope."""
    verdict = same(LOGITS, LOGITS + noise(LOGITS.shape, 1, SIGMA * factor), envelope=ENVELOPE)
    assert verdict.passed is passes
    assert verdict.limit == pytest.approx(2**0.5 * 1.25 * ENVELOPE.nrms)


@pytest.mark.parametrize(("factor", "passes"), [(1.2, True), (1.4, False)])
def test_against_the_oracle_there_is_one_error(factor: float, passes: bool) -> None:
    run = LOGITS + noise(LOGITS.shape, 1, SIGMA * factor)
    verdict = same(LOGITS, run, envelope=ENVELOPE, exact=True)
    assert verdict.passed is passes
    assert verdict.limit == pytest.approx(1.25 * ENVELOPE.nrms)
    assert f"{LOGITS.shape[0]} steps x {LOGITS.shape[1]} prompts against the oracle" in verdict.explanation
    assert "prompts against the first run" in same(LOGITS, run, envelope=ENVELOPE).explanation


def test_without_an_envelope_bf16_and_fp16_are_assumed_and_others_are_no_pass() -> None:
    verdict = same(LOGITS, LOGITS + noise(LOGITS.shape, 1))
    assert verdict.passed
    assert "assumed, not measured" in verdict.explanation
    assert not same(LOGITS, LOGITS + noise(LOGITS.shape, 1, 0.1)).passed
    assert same(LOGITS, LOGITS, "int8").status == "no_reference"


def test_a_flip_beyond_its_margin_fails() -> None:
    step, row = (int(i) for i in np.unravel_index(REFERENCE.margins.argmax(), REFERENCE.margins.shape))
    run, two = LOGITS.copy(), REFERENCE.top_ids[step, row, :2]
    run[step, row, two[1]] = run[step, row, two[0]] + 1e-3  # sure in one run, nearly equal in the other
    for a, b in ((LOGITS, run), (run, LOGITS)):
        verdict = same(a, b, envelope=ENVELOPE)
        assert (verdict.passed, verdict.flips_beyond_margin, verdict.worst) == (False, 1, (step, row))


def test_runs_that_compute_nothing_do_not_pass() -> None:
    zero = np.zeros_like(LOGITS)
    for dtype in ("fp32", "bf16"):
        assert same(zero, zero, dtype).status == "fail"
        assert same(zero, zero, dtype, reference_spread=1.0, envelope=ENVELOPE).status == "fail"


@given(which=st.integers(0, 1), value=st.sampled_from([np.nan, np.inf]), dtype=st.sampled_from(["fp32", "bf16"]))
def test_what_is_not_finite_is_not_the_same(which: int, value: float, dtype: str) -> None:
    runs = [LOGITS.copy(), LOGITS.copy()]
    runs[which][1, 2, 3] = value
    verdict = same(runs[0], runs[1], dtype)
    assert verdict.status == "fail"
    assert ("first run", "second run")[which] in verdict.explanation
    assert judge_bitwise(*(scored(r, REFERENCE) for r in runs), dtype=dtype).status == "fail"


def test_both_not_finite_is_not_the_same_either() -> None:
    bad = np.full_like(LOGITS, np.nan)
    assert same(bad, bad, "fp32").status == "fail"
    assert judge_bitwise(scored(bad, REFERENCE), scored(bad, REFERENCE), dtype="fp32").status == "fail"


def test_other_shapes_are_not_the_same() -> None:
    short = REFERENCE.select(steps=2)
    a, b = scored(LOGITS, REFERENCE), scored(LOGITS[:2], short)
    assert judge_same(a, b, dtype="fp32").status == "fail"
    assert judge_bitwise(a, b, dtype="fp32").status == "fail"


def test_equal_in_every_bit() -> None:
    a, b = scored(LOGITS, REFERENCE), scored(LOGITS.copy(), REFERENCE)
    assert judge_bitwise(a, b, dtype="bf16").passed


@pytest.mark.parametrize("name", ["projections", "top_logits", "logsumexp", "forced_logit"])
def test_the_last_bit_counts(name: str) -> None:
    a = scored(LOGITS, REFERENCE)
    array = getattr(a, name).copy()
    array[4, 1] = np.nextafter(array[4, 1], np.inf, dtype=array.dtype)
    verdict = judge_bitwise(a, replace(a, **{name: array}), dtype="fp32")
    assert verdict.status == "fail"
    assert "1 of 18 choices, first at step 4 of prompt 1" in verdict.explanation


def test_kept_logits_are_compared_too() -> None:
    a = replace(scored(LOGITS, REFERENCE), logits=LOGITS.astype(np.float32))
    changed = LOGITS.astype(np.float32)
    changed[0, 0, 63] = -changed[0, 0, 63]
    assert judge_bitwise(a, replace(a, logits=LOGITS.astype(np.float32)), dtype="fp32").passed
    assert not judge_bitwise(a, replace(a, logits=changed), dtype="fp32").passed


@pytest.mark.parametrize("independent", [True, False])
def test_a_verdict_against_an_oracle_says_whether_it_is_independent(independent: bool) -> None:
    verdict = same(LOGITS, LOGITS, "fp32", exact=True, independent=independent)
    assert verdict.independent is independent
    assert ("not independent" in verdict.explanation) is not independent
