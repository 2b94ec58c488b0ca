"""What the gate may say: never a verdict on too few launches, never another one for other units or another order."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.gate.decision import FLOOR, Settings, decide, decide_exact, settings_for, worse
from genqual.gate.verdict import Verdict
from tests.benchmarks.gate_simulation import VERDICTS, judge_many

SETTINGS = Settings(0.05)
BASELINE = [0.80 + 0.01 * x for x in (-1.2, -0.9, -0.5, -0.3, -0.1, 0.0, 0.1, 0.2, 0.4, 0.6, 0.9, 1.3)]
ORDER = [Verdict.IMPROVED, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.REGRESSED]

patient = settings(deadline=None, max_examples=40)  # a busy host is slow, never wrong

zs = st.floats(-0.2, 0.2).map(lambda x: round(x, 6))
launches = st.lists(zs, min_size=1, max_size=12)
baselines = st.lists(zs, min_size=4, max_size=20)


def rank(verdict: Verdict | None) -> int:
    """None and INCONCLUSIVE are the same knowledge."""
    return ORDER.index(verdict or Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(0.0, Verdict.PASS), (0.05, Verdict.REGRESSED), (0.12, Verdict.REGRESSED), (-0.10, Verdict.IMPROVED)],
)
def test_the_four_answers(shift: float, verdict: Verdict) -> None:
    now = [0.80 + math.log1p(shift) + x for x in (-0.004, 0.003, 0.001, -0.002, 0.002)]
    found = decide(BASELINE, now, SETTINGS)
    assert found.verdict is verdict
    assert found.change == pytest.approx(shift, abs=0.003)
    assert found.interval[0] < found.change < found.interval[1]


def test_a_regression_within_half_the_tolerance_is_none() -> None:
    steady = [0.8 + 0.0001 * x for x in range(-6, 7)]
    found = decide(steady, [0.8 + math.log1p(0.02) + 0.0001 * x for x in range(-5, 6)], SETTINGS)
    assert found.log_slower > math.log(1000)
    assert found.verdict is Verdict.PASS


def test_too_noisy_to_know_is_inconclusive_after_the_last_launch() -> None:
    noisy = [0.8 + 0.2 * x for x in (-1, 1, -0.5, 0.5, 0, 0.2, -0.9, 0.8, -0.3, 0.4, 1, -1)]
    assert decide(noisy, noisy[:6], SETTINGS).verdict is None
    assert decide(noisy, noisy, SETTINGS).verdict is Verdict.INCONCLUSIVE


@patient
@given(baselines, launches, st.floats(0.0, 0.3))
def test_slower_is_never_judged_better(old: list[float], now: list[float], more: float) -> None:
    before, after = decide(old, now, SETTINGS), decide(old, [z + more for z in now], SETTINGS)
    assert rank(before.verdict) <= rank(after.verdict)
    assert before.change <= after.change + 1e-12


@patient
@given(baselines, launches, st.floats(-10, 10))
def test_the_unit_of_time_does_not_matter(old: list[float], now: list[float], unit: float) -> None:
    before = decide(old, now, SETTINGS)
    after = decide([z + unit for z in old], [z + unit for z in now], SETTINGS)
    assert after.change == pytest.approx(before.change, abs=1e-9)
    assert after.log_slower == pytest.approx(before.log_slower, abs=1e-6, rel=1e-6)
    assert after.log_within == pytest.approx(before.log_within, abs=1e-6, rel=1e-6)


@patient
@given(baselines, launches, st.randoms(use_true_random=False))
def test_the_order_of_launches_does_not_matter(old: list[float], now: list[float], shuffle: st.DataObject) -> None:
    before = decide(old, now, SETTINGS)
    old, now = list(old), list(now)
    shuffle.shuffle(old)  # type: ignore[attr-defined]
    shuffle.shuffle(now)  # type: ignore[attr-defined]
    after = decide(old, now, SETTINGS)
    assert after.log_slower == pytest.approx(before.log_slower, abs=1e-6, rel=1e-6)
    assert after.verdict is before.verdict or abs(before.log_slower + math.log(SETTINGS.alpha)) < 1e-6


@patient
@given(baselines, st.lists(zs, min_size=1, max_size=4), st.integers(5, 9))
def test_nothing_is_judged_on_fewer_launches_than_the_fewest(old: list[float], now: list[float], least: int) -> None:
    assert decide(old, now, Settings(0.05, k_min=least)).verdict is None


@patient
@given(baselines, launches)
def test_noisier_launches_are_never_better_evidence(old: list[float], now: list[float]) -> None:
    """What makes the candidate's own spread count: the same mean, spread wider, says less."""
    middle = sum(now) / len(now)
    before, after = decide(old, now, SETTINGS), decide(old, [middle + 3 * (z - middle) for z in now], SETTINGS)
    assert max(after.log_slower, 0.0) <= max(before.log_slower, 0.0) + 1e-6
    assert max(after.log_within, 0.0) <= max(before.log_within, 0.0) + 1e-6


def test_launches_that_are_all_alike_are_not_believed_to_be_exact() -> None:
    found = decide([0.8] * 12, [0.8] * 3, SETTINGS)
    assert found.sigma == FLOOR
    assert found.verdict is Verdict.PASS


@patient
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.03, 0.05, -0.08]), st.sampled_from([0.01, 0.04]))
def test_many_at_once_are_judged_as_one_by_one(seed: int, shift: float, noise: float) -> None:
    """The simulation's vectorised gate is the gate."""
    rng = np.random.default_rng(seed)
    old, new = rng.normal(0.8, 0.01, (4, 12)), rng.normal(0.8 + shift, noise, (4, 12))
    verdicts, took = judge_many(old, new, SETTINGS)
    for row in range(4):
        for count in range(SETTINGS.k_min, SETTINGS.k_max + 1):
            found = decide(old[row].tolist(), new[row, :count].tolist(), SETTINGS)
            if found.verdict is not None:
                break
        assert VERDICTS[verdicts[row]] is found.verdict
        assert took[row] == found.launches


@pytest.mark.parametrize(
    ("baseline", "now"), [([0.8], [0.8]), ([0.8, 0.9], []), ([0.8, math.nan], [0.8]), ([0.8, 0.9], [math.inf])]
)
def test_what_is_no_number_is_not_judged(baseline: list[float], now: list[float]) -> None:
    with pytest.raises(ValueError, match="all finite"):
        decide(baseline, now, SETTINGS)


@pytest.mark.parametrize(
    "wrong", [{"tolerance": 0.0}, {"alpha": 0.0}, {"beta": 1.0}, {"k_min": 1}, {"k_min": 5, "k_max": 4}]
)
def test_settings_cannot_be_built_wrong(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"launches|between"):
        Settings(**({"tolerance": 0.05} | wrong))  # type: ignore[arg-type]


def test_alpha_is_split_over_the_metrics_of_a_run() -> None:
    assert settings_for("tpot", 1, metrics=8).alpha == pytest.approx(0.001 / 8)
    assert settings_for("tpot", 1).tolerance == 0.05
    assert settings_for("tpot", 2).tolerance == settings_for("tpot", 1, hook=False).tolerance == 0.10


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ([1.0, 1.01, 1.0], Verdict.PASS),
        ([1.04, 1.05, 1.06], Verdict.REGRESSED),
        ([0.95, 0.94, 0.95], Verdict.IMPROVED),
        ([1.05, 1.05], None),
        ([1.0, 1.5, 1.6], Verdict.PASS),
    ],
)
def test_what_is_exact_is_compared_by_its_ends(now: list[float], verdict: Verdict | None) -> None:
    assert decide_exact([1.0, 1.005], now, slack=0.02, k_min=3).verdict is verdict


@given(launches=st.lists(st.floats(-0.1, 0.1), min_size=3, max_size=12), allowance=st.floats(0.0, 0.045))
def test_an_allowance_moves_both_nulls_towards_each_other(launches: list[float], allowance: float) -> None:
    old = [0.01 * x for x in (-1.2, -0.5, -0.3, 0.1, 0.4, 1.5)]
    found = decide(old, launches, Settings(0.05, allowance=allowance))
    free = math.log1p(allowance)
    lower, higher = ([one + move for one in launches] for move in (-free, free))
    assert found.log_slower == pytest.approx(decide(old, lower, SETTINGS).log_slower, abs=1e-6)
    assert found.log_faster == pytest.approx(decide(old, higher, SETTINGS).log_faster, abs=1e-6)
    assert found.log_within == pytest.approx(decide(old, higher, SETTINGS).log_within, abs=1e-6)
    assert found.change == decide(old, launches, SETTINGS).change


def test_what_the_hour_may_do_is_neither_a_regression_nor_a_pass() -> None:
    """Twelve launches that hardly vary, 3 % slower: 3 % is found; with 2.5 % left to the hour it decides nothing."""
    old = [0.001 * (i % 5) for i in range(16)]
    now = [0.03 + 0.004 * (i % 5) for i in range(12)]
    assert decide(old, now, SETTINGS).verdict is Verdict.REGRESSED
    assert decide(old, now, Settings(0.05, allowance=0.025)).verdict is Verdict.INCONCLUSIVE
    assert decide(old, [one + 0.03 for one in now], Settings(0.05, allowance=0.025)).verdict is Verdict.REGRESSED
    assert decide(old, [one - 0.03 for one in now], Settings(0.05, allowance=0.025)).verdict is Verdict.PASS


def test_of_two_series_the_worse_decides() -> None:
    slow = decide(BASELINE, [z + 0.06 for z in BASELINE], SETTINGS)
    fine = decide(BASELINE, BASELINE, SETTINGS)
    open_ = decide(BASELINE, BASELINE[:2], SETTINGS)
    assert worse([fine, slow]) == slow
    assert worse([fine, open_]) == open_
    assert worse([fine, fine]).verdict is Verdict.PASS


def test_of_two_series_both_need_the_evidence_for_a_pass() -> None:
    """One reads faster and waits for IMPROVED, the other is undecided: a budget that ends there ends in no PASS."""
    strict = replace(SETTINGS, alpha=1e-15)
    waits = decide(BASELINE, [z - 0.035 for z in BASELINE[:3]], strict)
    undecided = decide(BASELINE, [z + 0.024 + 0.02 * (-1) ** i for i, z in enumerate(BASELINE[:3])], strict)
    assert (waits.verdict, waits.passes) == (None, True)
    assert (undecided.verdict, undecided.passes) == (None, False)
    assert not worse([waits, undecided]).passes
    assert not worse([undecided, waits]).passes
    assert worse([waits, waits]).passes
