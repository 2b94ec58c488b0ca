"""The judge of the best log-probabilities: rounding passes, each error fails, each limit is where it is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genqual.conformance.judges.logprobs import ROUNDING, exact_logprobs, judge_top
from genqual.conformance.references.make import Reference, make, with_envelope
from genqual.conformance.scores import scores_of
from genqual.errors import BadInput

from .pretend import F64, SIGMA, TableOracle, forced_logits, noise, table

I64 = NDArray[np.int64]
PROMPTS = [[n, n + 7] for n in range(0, 48, 6)]
STEPS, BEST = 24, 5
ORACLE = TableOracle(table(5))
PRECISION_MODES = pytest.mark.parametrize("dtype", ["fp32", "bf16"])


def referred(oracle: TableOracle) -> Reference:
    bare = make("table", "f" * 64, oracle, PROMPTS, STEPS)
    logits = forced_logits(oracle, bare)
    fault_free = {str(n): scores_of(logits + noise(logits.shape, n), bare.forced) for n in (1, 2)}
    return with_envelope(bare, "bf16", fault_free)


REFERENCE = referred(ORACLE)


def softmax_log(logits: F64) -> F64:
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


def free_run(sigma: float = 0.0, seed: int = 0, best: int = BEST) -> tuple[I64, I64, F64]:
    """Tokens (rows, steps), ids and log-probabilities (steps, rows, best) of an engine that is off by sigma."""
    errors = noise((STEPS, len(PROMPTS), ORACLE.vocabulary), seed, sigma)
    last = np.array([prompt[-1] for prompt in PROMPTS])
    tokens, ids, logprobs = [], [], []
    for step in range(STEPS):
        said = softmax_log(ORACLE.table[last] + errors[step])
        order = np.argsort(-said, axis=-1)[:, :best]
        ids.append(order)
        logprobs.append(np.take_along_axis(said, order, axis=-1))
        last = order[:, 0]
        tokens.append(last)
    return np.stack(tokens, axis=1), np.stack(ids), np.stack(logprobs)


TOKENS, IDS, EXACT = free_run()


def judged(
    tokens: I64 = TOKENS,
    ids: I64 = IDS,
    logprobs: F64 = EXACT,
    dtype: str = "bf16",
    reference: Any = REFERENCE,
    **more: Any,
) -> Any:
    return judge_top(tokens, ids, logprobs, reference, dtype=dtype, **{"rescore": ORACLE.logits, **more})


def gains() -> F64:
    """The variance of e_i - sum of p_j e_j, of independent e_j of variance 1; (steps, rows, best)."""
    last = np.concatenate([[[prompt[-1] for prompt in PROMPTS]], TOKENS.T[:-1]])
    p = np.exp(softmax_log(ORACLE.table[last]))
    found = np.empty(IDS.shape)
    for place in np.ndindex(IDS.shape):
        weights = -p[place[:2]]
        weights[IDS[place]] += 1.0
        found[place] = (weights * weights).sum()
    return found


def changed(array: I64, place: tuple[int, ...], value: int) -> I64:
    other = array.copy()
    other[place] = value
    return other


def rms(values: F64, axis: Any = None) -> Any:
    return np.sqrt((values * values).mean(axis=axis))


@PRECISION_MODES
def test_the_oracle_itself_passes(dtype: str) -> None:
    verdict = judged(dtype=dtype)
    assert verdict.passed, verdict.explanation
    assert verdict.nrms < 1e-12
    assert (verdict.flips, verdict.flips_beyond_margin, verdict.tier, verdict.independent) == (0, 0, "top", True)
    assert (verdict.judged, verdict.total) == (STEPS * len(PROMPTS),) * 2


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), best=st.sampled_from([2, 3, 5, 16, 64]))
def test_an_honest_run_reads_its_envelope_and_passes_its_lane_only(seed: int, best: int) -> None:
    """However many are listed: the gain makes their errors comparable with those of centred logits."""
    run = free_run(SIGMA, seed, best)
    verdict = judged(*run)
    assert verdict.passed, verdict.explanation
    assert 0.8 < verdict.ratio < 1.2
    assert not judged(*run, dtype="fp32").passed
    assert judged(*free_run(1e-6, seed, best), dtype="fp32").passed


def test_a_row_that_left_the_reference_is_judged_on_its_own_text() -> None:
    runs = [free_run(SIGMA, seed) for seed in range(40)]
    left = [run for run in runs if (run[0] != REFERENCE.forced).any()]
    assert left
    for run in left:
        verdict = judged(*run)
        assert verdict.passed, verdict.explanation
        assert verdict.flips > 0
        assert verdict.flips_beyond_margin == 0


@PRECISION_MODES
@pytest.mark.parametrize("by", [1 - 1e-3, 1 + 1e-3])
def test_the_limit_on_all_is_the_lanes_times_the_gain_and_fp32s_rounding(dtype: str, by: float) -> None:
    """All log-probabilities are off by one constant, as by a wrong logsumexp: its size is their RMS error."""
    spread = REFERENCE.pooled_spread
    lanes = 1e-5 if dtype == "fp32" else 1.25 * REFERENCE.envelopes["bf16"].nrms
    limit = lanes * np.sqrt(gains().mean()) + rms(ROUNDING * EXACT) / spread
    verdict = judged(logprobs=EXACT + by * limit * spread, dtype=dtype, k=100.0)
    assert verdict.limit == pytest.approx(limit, rel=1e-9)
    assert verdict.nrms == pytest.approx(by * limit, rel=1e-9)
    unit = 1e-5 if dtype == "fp32" else REFERENCE.envelopes["bf16"].nrms
    assert verdict.ratio == pytest.approx(by * limit / unit / np.sqrt(gains().mean()), rel=1e-9)
    assert verdict.passed == (by < 1)
    assert ("nrms of the log-probabilities" in verdict.explanation) == (by > 1)


@PRECISION_MODES
@pytest.mark.parametrize("by", [1 - 1e-3, 1 + 1e-3])
def test_no_single_cell_may_be_off_by_more_than_eight_sigma(dtype: str, by: float) -> None:
    step, row = 7, 3
    sigma = 1e-5 * REFERENCE.pooled_spread if dtype == "fp32" else REFERENCE.envelopes["bf16"].sigma[step]
    bound = 8 * sigma * np.sqrt(gains()[step, row].mean()) + rms(ROUNDING * EXACT[step, row])
    wrong = EXACT.copy()
    wrong[step, row] -= by * bound
    verdict = judged(logprobs=wrong, dtype=dtype)
    assert verdict.passed == (by < 1), verdict.explanation
    assert verdict.worst == (step, row)
    if by > 1:
        assert f"at step {step} of prompt {row} are off by" in verdict.explanation
        assert "1 such cells" in verdict.explanation


@pytest.mark.parametrize("by", [1 - 1e-3, 1 + 1e-3])
def test_a_choice_may_lie_behind_the_oracles_best_by_k_sigma(by: float) -> None:
    """At one step the engine swaps the two best; nothing that comes after is its own fault."""
    step, row = STEPS - 1, 2
    tokens, ids, logprobs = TOKENS.copy(), IDS.copy(), EXACT.copy()
    tokens[row, step] = ids[step, row, 1]
    gap = EXACT[step, row, 0] - EXACT[step, row, 1]
    logprobs[step, row, 0] -= gap / 2 + 1e-9
    logprobs[step, row, 1] += gap / 2 + 1e-9
    verdict = judged(tokens, ids, logprobs, k=gap / REFERENCE.envelopes["bf16"].sigma[step] / by, factor=100.0)
    assert verdict.passed == (by < 1), verdict.explanation
    assert (verdict.flips, verdict.flips_beyond_margin, verdict.worst) == (1, int(by > 1), (step, row))
    if by > 1:
        for words in (f"step {step} of prompt {row} chose {tokens[row, step]}", f"{ids[step, row, 0]} by {gap:.4g}"):
            assert words in verdict.explanation


def fifth_lost(step: int, row: int) -> tuple[I64, F64, int, float]:
    """The lists with the sixth best in the place of the fifth in one cell; the fifth, and how far it was before."""
    _, six, exact = free_run(best=6)
    ids, logprobs = IDS.copy(), EXACT.copy()
    ids[step, row, 4], logprobs[step, row, 4] = six[step, row, 5], exact[step, row, 5]
    return ids, logprobs, int(six[step, row, 4]), float(exact[step, row, 4] - exact[step, row, 5])


@pytest.mark.parametrize("by", [1 - 1e-3, 1 + 1e-3])
def test_what_is_left_out_of_the_list_may_be_better_by_k_sigma(by: float) -> None:
    """A token whose logit is lost is in nobody's list: its log-probability is judged by its absence."""
    step, row = 5, 4
    ids, logprobs, lost, gap = fifth_lost(step, row)
    verdict = judged(ids=ids, logprobs=logprobs, k=gap / REFERENCE.envelopes["bf16"].sigma[step] / by)
    assert verdict.passed == (by < 1), verdict.explanation
    assert verdict.worst == (step, row)
    assert (f"{lost} is not among the best 5" in verdict.explanation) == (by > 1)


@pytest.mark.parametrize("by", [1 - 1e-3, 1 + 1e-3])
def test_a_cell_that_is_off_itself_may_leave_out_in_proportion(by: float) -> None:
    """Honest errors are larger in some cells than in others; what is listed there says by how much."""
    step, row = 5, 4
    ids, logprobs, lost, gap = fifth_lost(step, row)
    sigma = REFERENCE.envelopes["bf16"].sigma[step]
    off = 3 * sigma  # of each listed one; a third of what a cell may be off by
    k = gap / off / by
    assert f"{lost} is not among the best 5" in judged(ids=ids, k=k, logprobs=logprobs).explanation
    logprobs[step, row] += off
    verdict = judged(ids=ids, logprobs=logprobs, k=k, factor=100.0)
    assert ("is not among the best 5" in verdict.explanation) == (by > 1)


def test_the_chosen_token_is_the_best_of_its_own_list() -> None:
    wrong = EXACT.copy()
    wrong[4, 1, [0, 1]] = wrong[4, 1, [1, 0]]
    verdict = judged(logprobs=wrong)
    assert verdict.status == "fail"
    assert f"step 4 of prompt 1 chose {TOKENS[1, 4]}, but its own log-probabilities favour {IDS[4, 1, 1]}" in (
        verdict.explanation
    )
    # Equal ones are equal choices, and a list may come in any order.
    wrong[4, 1, 1] = wrong[4, 1, 0]
    assert "favour" not in judged(logprobs=wrong).explanation
    assert judged(ids=IDS[..., ::-1], logprobs=EXACT[..., ::-1]).passed


def test_a_choice_that_is_not_even_listed_fails() -> None:
    tokens = TOKENS.copy()
    tokens[1, STEPS - 1] = free_run(best=6)[1][STEPS - 1, 1, 5]
    assert "1 such choices" in judged(tokens).explanation
    assert judged(tokens, k=1000.0, factor=1000.0).status == "fail"


@PRECISION_MODES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_first(value: float, dtype: str) -> None:
    wrong = EXACT.copy()
    wrong[3, 2, 1] = value
    verdict = judged(logprobs=wrong, dtype=dtype)
    assert verdict.status == "fail"
    assert "not finite in 1 of 192 choices, first at step 3 of prompt 2" in verdict.explanation


@pytest.mark.parametrize(
    ("tokens", "ids", "logprobs", "words"),
    [
        (TOKENS[:, 1:], IDS, EXACT, "were wanted"),
        (TOKENS[1:], IDS, EXACT, "were wanted"),
        (TOKENS, IDS[1:], EXACT[1:], "were wanted"),
        (TOKENS, IDS, EXACT[..., 1:], "were wanted"),
        (TOKENS, IDS[:, :, 0], EXACT[:, :, 0], "were wanted"),
        (TOKENS, IDS[..., :1], EXACT[..., :1], "at least 2 are needed"),
        (TOKENS, changed(IDS, (2, 2, 4), 64), EXACT, "ids below 64"),
        (TOKENS, changed(IDS, (2, 2, 4), -1), EXACT, "ids below 64"),
        (changed(TOKENS, (2, 2), 64), IDS, EXACT, "ids below 64"),
        (changed(TOKENS, (2, 2), -1), IDS, EXACT, "ids below 64"),
        (TOKENS, IDS[..., [0, 1, 2, 3, 1]], EXACT, "An id stands twice among the best at step 0 of prompt 0"),
    ],
)
def test_what_is_no_run_of_this_model_fails(tokens: I64, ids: I64, logprobs: F64, words: str) -> None:
    verdict = judged(tokens, ids, logprobs)
    assert verdict.status == "fail"
    assert words in verdict.explanation


def test_two_are_enough() -> None:
    assert judged(ids=IDS[..., :2], logprobs=EXACT[..., :2]).passed


def test_ids_at_the_edges_of_the_vocabulary_are_tokens() -> None:
    assert {0, 63} <= set(free_run(best=64)[1].ravel())
    assert judged(*free_run(best=64)).passed


@pytest.mark.parametrize("temperature", [0.9, 1.1])
def test_log_probabilities_after_a_temperature_fail(temperature: float) -> None:
    last = np.concatenate([[[prompt[-1] for prompt in PROMPTS]], TOKENS.T[:-1]])
    cooled = np.take_along_axis(softmax_log(ORACLE.table[last] / temperature), IDS, axis=-1)
    assert judged(logprobs=cooled).status == "fail"


def test_log_probabilities_to_the_base_of_ten_fail() -> None:
    assert judged(logprobs=EXACT / np.log(10)).status == "fail"


def test_rows_of_the_reference_are_looked_up() -> None:
    def never(ids: Any) -> F64:
        raise AssertionError("a row of the reference needs no oracle")

    known = forced_logits(ORACLE, REFERENCE)
    assert (REFERENCE.forced == TOKENS).all()
    assert judged(rescore=never, known=known).passed
    asked: list[Any] = []

    def noted(ids: Any) -> F64:
        asked.append(ids)
        return ORACLE.logits(ids)

    other = TOKENS.copy()
    other[3, STEPS - 1] = IDS[STEPS - 1, 3, 1]
    got = exact_logprobs(other, REFERENCE, noted, known)
    assert asked == [[*PROMPTS[3], *other[3, :-1]]]
    assert np.allclose(got, softmax_log(known))
    assert np.allclose(np.exp(got).sum(axis=-1), 1.0)


def test_nothing_to_judge_by_is_a_status() -> None:
    def none(ids: Any) -> F64:
        raise BadInput("no oracle of that architecture")

    for verdict in (judged(reference=None), judged(dtype="fp16"), judged(rescore=none)):
        assert verdict.status == "no_reference"
        assert verdict.tier == "top"
    assert "no oracle of that architecture" in judged(rescore=none).explanation


def test_an_oracle_that_is_not_finite_passes_nothing() -> None:
    assert judged(rescore=lambda ids: ORACLE.logits(ids) * np.nan).status == "fail"


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_fp32_on_the_way_moves_a_log_probability_by_no_more_than_its_allowance(seed: int, scale: float) -> None:
    """A log-softmax whose exp and sum are exact, each part rounded to fp32 and printed as shortly as it may be."""
    logits = (np.random.default_rng(seed).standard_normal(500) * scale).astype(np.float32).astype(np.float64)
    below = logits - logits.max()
    total = np.log(np.exp(below).sum())
    short = below.astype(np.float32) - np.float32(total)
    assert short.dtype == np.float32
    read = np.array([float(str(value)) for value in list(short)])
    assert (np.abs(read - (below - total)) <= ROUNDING * np.abs(below - total)).all()
    assert ROUNDING == 3 / 2**24
