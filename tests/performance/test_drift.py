"""Evidence stays evidence where occasions differ, and says how large a slowdown a baseline can find then."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from genqual.gate import tolerances
from genqual.gate.decision import Against, Settings, decide
from genqual.gate.drift import Drift, by_time, estimated, occasions_of, prior
from genqual.gate.stages import pairs_of, stage_one
from genqual.gate.tolerances import Known
from genqual.gate.verdict import Verdict
from tests.benchmarks.gate_simulation import VERDICTS, judge_many, log_slower_many
from tests.plugin.test_judging import launch

SETTINGS = Settings(0.05)
SIGMA = 0.01
WHEN = [index // 4 for index in range(20)]

patient = settings(deadline=None, max_examples=25)  # a busy host is slow, never wrong


def gls(values: list[float], occasions: list[int], ratio: float) -> tuple[float, float, float]:
    """Mean, precision and sum of squares by linear algebra on the whole covariance matrix."""
    y, each = np.array(values), np.array(occasions)
    inverse = np.linalg.inv(np.eye(len(y)) + ratio * (each[:, None] == each))
    ones = np.ones(len(y))
    precision = float(ones @ inverse @ ones)
    middle = float(ones @ inverse @ y) / precision
    return middle, precision, float((y - middle) @ inverse @ (y - middle))


@patient
@given(st.lists(st.tuples(st.floats(-0.05, 0.05), st.integers(0, 4)), min_size=3, max_size=20), st.floats(0.0, 0.03))
def test_a_baseline_of_occasions_is_weighted_as_generalised_least_squares_does(
    launches: list[tuple[float, int]], drift: float
) -> None:
    values, occasions = [z for z, _ in launches], [when for _, when in launches]
    found = Against.of(values, drift, occasions)
    middle, precision, squares = gls(values, occasions, (drift / found.sigma) ** 2)
    assert found.middle == pytest.approx(middle, abs=1e-9)
    assert found.precision == pytest.approx(precision, rel=1e-9)
    assert found.squares == pytest.approx(squares, rel=1e-6, abs=1e-12)


def histories(rng: np.random.Generator, count: int, drift: float, new: int) -> tuple[NDArray[np.float64], ...]:
    """Unchanged code: five occasions of four launches, then `new` launches of a sixth."""
    offsets = drift * rng.standard_normal((count, 6))
    old = SIGMA * rng.standard_normal((count, 20)) + np.repeat(offsets[:, :5], 4, axis=1)
    return old, SIGMA * rng.standard_normal((count, new)) + offsets[:, 5:]


def evidence(
    seed: int, drift: float, believed: float, limit: float | None = None, count: int = 4000
) -> NDArray[np.float64]:
    """E of `count` histories on the edge of the null: unchanged, or slower by just `limit`."""
    rng = np.random.default_rng(seed)
    old, new = histories(rng, count, drift, int(rng.integers(3, 13)))
    slower = new + math.log1p(limit or 0.0)
    return np.exp(log_slower_many(old, slower, drift=believed, occasions=WHEN, limit=limit))


def too_much(values: NDArray[np.float64]) -> bool:
    """Whether these surely break the promise: a mean above 1, or 20 reached more often than once in 20.

    Cut off at 50, where a few enormous ones would hide what all others say; that only makes the mean less.
    """
    cut = np.minimum(values, 50.0)
    error = float(cut.std(ddof=1)) / math.sqrt(len(cut))
    often = stats.binomtest(int((values >= 20.0).sum()), len(values), 1 / 20, alternative="greater").pvalue
    return bool(cut.mean() > 1.0 + 4.0 * error or often < 1e-4)


@patient
@given(st.integers(0, 2**32 - 1), st.floats(-0.05, 0.05), st.floats(0.0, 0.03), st.integers(2, 12))
def test_evidence_of_many_at_once_is_that_of_one_by_one(seed: int, shift: float, drift: float, new: int) -> None:
    old, now = histories(np.random.default_rng(seed), 1, drift, new)
    now = now * (1 + seed % 4) + shift
    found = decide(old[0].tolist(), now[0].tolist(), SETTINGS, drift=drift, occasions=WHEN)
    many = [log_slower_many(old, now, drift=drift, occasions=WHEN, limit=limit)[0] for limit in (None, 0.05)]
    assert many == pytest.approx([found.log_slower, found.log_within], rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.25, 1.0, 4.0]), st.sampled_from([None, 0.05]))
def test_evidence_is_worth_no_more_than_one_on_average_whatever_the_drift(
    seed: int, ratio: float, limit: float | None
) -> None:
    """Both nulls: not slower, and slower by the tolerance."""
    drift = SIGMA * math.sqrt(ratio)
    assert not too_much(evidence(seed, drift, drift, limit))


@pytest.mark.parametrize(("ratio", "believed"), [(1.0, 0.0), (4.0, 0.25), (4.0, 1.0)])
def test_drift_that_is_thought_too_small_is_seen_to_break_the_promise(ratio: float, believed: float) -> None:
    """What the test above would say of a wrong ratio."""
    assert too_much(evidence(7, SIGMA * math.sqrt(ratio), SIGMA * math.sqrt(believed)))


@patient
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.03, 0.06, -0.04, -0.08]), st.floats(0.0, 0.03), st.booleans())
def test_many_at_once_are_judged_as_one_by_one(seed: int, shift: float, drift: float, final: bool) -> None:
    """The simulation's vectorised gate is the gate."""
    old, new = histories(np.random.default_rng(seed), 3, drift, 12)
    new, settings = new + shift, replace(SETTINGS, final=final)
    verdicts, took = judge_many(old, new, settings, drift=drift, occasions=WHEN)
    for row in range(len(old)):
        for count in range(SETTINGS.k_min, SETTINGS.k_max + 1):
            found = decide(old[row].tolist(), new[row, :count].tolist(), settings, drift=drift, occasions=WHEN)
            if found.verdict is not None:
                break
        assert VERDICTS[verdicts[row]] is found.verdict
        assert took[row] == found.launches


@patient
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.02), st.floats(0.0, 0.02))
def test_more_drift_is_never_better_evidence_of_a_change_that_is_seen(seed: int, less: float, more: float) -> None:
    old, new = histories(np.random.default_rng(seed), 1, 0.0, 6)
    values = old[0].tolist(), (new[0] + 0.06).tolist()
    few = decide(*values, SETTINGS, drift=less, occasions=WHEN)
    many = decide(*values, SETTINGS, drift=less + more, occasions=WHEN)
    assert many.log_slower <= few.log_slower + 1e-6
    assert many.interval[0] <= few.interval[0] + 1e-9


@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize("freedom", [4.0, 6.0, 10.0, 40.0])
def test_the_cautious_drift_is_the_quantile_of_another_implementation(
    freedom: float, level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genqual.gate.drift.SURE", 1.0 - level)
    peer = 0.01 * math.sqrt(freedom / stats.chi2.ppf(level, freedom))
    assert Drift(0.01, freedom).cautious == pytest.approx(peer, rel=0.02)
    assert Drift(0.01).cautious == 0.01


@pytest.mark.parametrize("truth", [0.0, 0.006, 0.02])
def test_drift_is_estimated_without_what_launches_vary_by_and_over_builds(truth: float) -> None:
    """Unbiased for the variance once the prior is taken out: 1,500 histories of two builds, unequal occasions."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(1500):
        builds = [
            [(level + truth * rng.standard_normal() + SIGMA * rng.standard_normal(size)).tolist() for size in sizes]
            for level, sizes in ((0.0, (4, 3, 5, 4, 2)), (0.3, (6, 6, 3)))
        ]
        found.append(estimated(builds, 0.0))
    assert {one.freedom for one in found} == {6.0 + 4 + 2}
    variance = float(np.mean([one.sd**2 for one in found])) * 12 / 6
    assert truth**2 * 0.9 <= variance <= truth**2 * 1.1 + 0.15 * SIGMA**2  # what is below zero is cut off


def test_the_prior_speaks_where_one_occasion_says_nothing() -> None:
    assert estimated([[[0.8, 0.81, 0.79]]], 0.006) == Drift(0.006, 6.0)
    assert prior(0.05, stepped=True) == pytest.approx(0.006)
    assert prior(0.30, stepped=False) == pytest.approx(0.021)


def test_batches_of_older_baselines_count_as_occasions_from_three_on() -> None:
    assert occasions_of([0, 0, 1, 1], None) == [0, 0, 0, 0]
    assert occasions_of([0, 1, 2], None) == [0, 1, 2]
    assert occasions_of([0, 1, 2], [0, 0, 1]) == [0, 0, 1]


def test_a_clock_that_went_back_makes_no_occasion() -> None:
    assert by_time([(0, 300), (320, 600), (2400, 2700), (1000, 1200), (4000, 4100)]) == [0, 0, 1, 1, 2]


def test_the_tolerance_follows_from_drift() -> None:
    rng = np.random.default_rng(11)
    launches = [
        launch(float(z)).model_copy(update={"batch": i // 4}) for i, z in enumerate(0.006 * rng.normal(size=20))
    ]
    widths = [
        tolerances.needed(launches, Known(Drift(sd), tuple(WHEN)), SETTINGS) for sd in (0.0, 0.004, 0.008, 0.016, 0.032)
    ]
    assert widths == sorted(widths)
    known = Known(Drift(0.008), tuple(WHEN))
    least = tolerances.allowed(launches, known, SETTINGS)
    assert tolerances.needed(launches, known, SETTINGS) <= least < tolerances.needed(launches, known, SETTINGS) + 0.01
    assert tolerances.allowed(launches, known, SETTINGS, widest=least - 0.01) == SETTINGS.tolerance  # refused elsewhere
    assert tolerances.paired(launches, known, SETTINGS) == SETTINGS.tolerance  # in turns, drift cancels
    noisy = [one.model_copy(update={"z": 3 * one.z}) for one in launches]
    assert tolerances.paired(noisy, known, SETTINGS) > SETTINGS.tolerance


def test_ten_of_a_hundred_slowdowns_by_the_tolerance_are_not_missed() -> None:
    """`needed` by simulation, apart from its formula: drift 0.8 %, known; the baseline finds what it says it finds."""
    rng = np.random.default_rng(2)
    old, new = histories(rng, 600, 0.008, 12)
    one = [launch(float(z)).model_copy(update={"batch": i // 4}) for i, z in enumerate(old[0])]
    limit = tolerances.needed(one, Known(Drift(0.008), tuple(WHEN)), SETTINGS)
    asked = replace(SETTINGS, tolerance=limit)
    verdicts, _ = judge_many(old, new + math.log1p(limit), asked, drift=0.008, occasions=WHEN)
    assert (verdicts == VERDICTS.index(Verdict.REGRESSED)).mean() > 0.9
    narrow = replace(SETTINGS, tolerance=limit / 2)
    verdicts, _ = judge_many(old, new + math.log1p(limit / 2), narrow, drift=0.008, occasions=WHEN)
    assert (verdicts == VERDICTS.index(Verdict.REGRESSED)).mean() < 0.5


def test_the_two_stages_share_what_may_go_wrong() -> None:
    first, second = stage_one(SETTINGS), pairs_of(SETTINGS)
    assert first.alpha + second.alpha == pytest.approx(SETTINGS.alpha)
    assert first.beta + second.beta == pytest.approx(SETTINGS.beta)
    assert first.k_min == second.k_min == SETTINGS.k_min
    assert first.k_max < second.k_max == SETTINGS.k_max
