"""The evidence is that of the non-central t, as another implementation has it, and it may be looked at any time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from genqual.gate.evalues import EFFECTS, log_e, threshold


def peer(t: float, freedom: float, size: float) -> float:
    """The same ratio from scipy's densities."""
    over = np.mean([stats.nct.pdf(t, freedom, effect * math.sqrt(size)) for effect in EFFECTS])
    return float(over / stats.t.pdf(t, freedom))


@pytest.mark.parametrize("freedom", [1.0, 3.0, 13.0, 40.0])
@pytest.mark.parametrize("size", [0.7, 2.4, 8.0])
@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 1.0, 4.0, 9.0])
def test_the_ratio_is_that_of_another_implementation(t: float, freedom: float, size: float) -> None:
    close = 3e-5 if freedom >= 3 else 3e-3
    assert math.exp(log_e(t, freedom, size)) == pytest.approx(peer(t, freedom, size), rel=close, abs=1e-12)


@pytest.mark.parametrize(("freedom", "size"), [(3.0, 1.0), (14.0, 2.5), (26.0, 6.0)])
def test_evidence_is_worth_one_on_average_when_nothing_changed(freedom: float, size: float) -> None:
    def weighted(t: float) -> float:
        return float(math.exp(log_e(t, freedom, size)) * stats.t.pdf(t, freedom))

    whole = integrate.quad(weighted, -np.inf, 0)[0] + integrate.quad(weighted, 0, np.inf, limit=200)[0]
    assert whole == pytest.approx(1.0, rel=1e-5)


@settings(deadline=None)  # a busy host is slow, never wrong
@given(st.floats(-20, 20), st.floats(0.01, 5), st.floats(1, 60), st.floats(0.5, 15))
def test_more_shift_is_more_evidence(t: float, more: float, freedom: float, size: float) -> None:
    assert log_e(t + more, freedom, size) >= log_e(t, freedom, size) - 1e-9


@pytest.mark.parametrize("wanted", [math.log(20), math.log(1000), math.log(80_000)])
def test_the_threshold_is_where_the_evidence_is_reached(wanted: float) -> None:
    t = threshold(wanted, 14.0, 2.5)
    assert float(log_e(t, 14.0, 2.5)) == pytest.approx(wanted, abs=1e-6)
    assert log_e(t - 1e-3, 14.0, 2.5) < wanted


def test_evidence_that_no_shift_can_reach_has_no_threshold() -> None:
    assert threshold(60.0, 1.0, 1.0) == math.inf


def test_looking_after_every_launch_raises_no_more_alarms_than_promised() -> None:
    """Ville's inequality, on 6,000 histories without any change: 12 launches, then up to 12 more, a look at each."""
    rng = np.random.default_rng(5)
    count, m = 6_000, 12
    old, new = rng.standard_normal((count, m)), rng.standard_normal((count, m))
    most = np.full(count, -np.inf)
    for n in range(1, m + 1):
        mine = new[:, :n].var(axis=1) * n
        freedom, size = m + n - 2.0, m * n / (m + n)
        spread = np.sqrt((old.var(axis=1) * m + mine) / freedom)
        t = (new[:, :n].mean(axis=1) - old.mean(axis=1)) / spread * math.sqrt(size)
        most = np.maximum(most, log_e(t, freedom, size))
    for level in (10, 100):
        alarms = int((most >= math.log(level)).sum())
        # Allowed: 1 / level. Far below it the evidence would be weaker than it needs to be.
        assert stats.binomtest(alarms, count, 1 / level, alternative="greater").pvalue > 1e-3
        assert alarms / count > 0.1 / level
