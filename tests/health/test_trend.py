"""A trend over time: the slope beside SciPy's, the interval by every order that there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import theilslopes

from genqual.health import stragglers
from genqual.health import trend as module
from genqual.health.trend import trend


def test_the_slope_is_theil_and_sens() -> None:
    rng = np.random.default_rng(4)
    at = np.arange(270.0)
    values = 0.03 * at + rng.standard_cauchy(270)
    medians = np.median(values.reshape(27, 10), axis=1)
    theirs = theilslopes(medians, np.arange(27.0), alpha=0.9999)
    found = trend(at, values)
    assert found.change == pytest.approx(26 * theirs.slope)
    assert found.first == medians[0]
    # SciPy's interval is by the normal approximation, which is no further than a few order statistics off here.
    assert found.low == pytest.approx(26 * theirs.low_slope, abs=0.15 * (found.high - found.low))
    assert found.high == pytest.approx(26 * theirs.high_slope, abs=0.15 * (found.high - found.low))


def test_the_interval_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all orders of seven values without a trend at most one in twenty has an interval that excludes none."""
    monkeypatch.setattr(stragglers, "CONFIDENCE", 0.95)
    module._order.cache_clear()
    at = np.arange(7.0)
    orders = list(itertools.permutations(range(7)))
    found = [trend(at, np.array(order, dtype=float), 7) for order in orders]
    missed = sum(not one.low <= 0.0 <= one.high for one in found) / len(orders)
    rank = module._order(7)
    monkeypatch.setattr(module, "_order", lambda blocks: rank + 1)
    narrower = [trend(at, np.array(order, dtype=float), 7) for order in orders]
    assert missed <= 0.05 < sum(not one.low <= 0.0 <= one.high for one in narrower) / len(orders)


def test_a_burst_is_no_trend() -> None:
    """Ten disturbed samples side by side are one piece of evidence, not ten."""
    values = np.ones(2700) + 1e-3 * np.random.default_rng(1).standard_normal(2700)
    values[-150:] += 5.0
    assert trend(np.arange(2700.0), values).low < 0.01


@pytest.mark.parametrize(
    ("at", "values", "said"),
    [
        (np.arange(5.0), np.ones(5), "5 of 27 parts"),
        (np.zeros(0), np.zeros(0), "0 of 27 parts"),
        (np.arange(60.0), np.full(60, np.nan), "finite"),
        (np.arange(60.0), np.ones(59), "as many"),
        (np.concatenate([np.arange(40.0), [400.0]]), np.ones(41), "4 of 27 parts"),
    ],
)
def test_what_tells_no_trend_is_refused(at: np.ndarray, values: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trend(at, values)


def test_too_few_blocks_are_refused() -> None:
    module._order.cache_clear()
    with pytest.raises(ValueError, match="7 blocks are too few"):
        trend(np.arange(80.0), np.ones(80), 7)
