"""What is said of launches over time: occasions by the clock, and intervals that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.benchmarks.over_time import report
from tests.benchmarks.over_time.drifting import between, by_occasion, explained, mean_change, steadier, with_prior

DRAWS = 2000
OFF = 3 * math.sqrt(0.05 * 0.95 / DRAWS)  # three standard errors of a coverage of 95 %


def test_launches_a_quarter_of_an_hour_apart_are_of_two_occasions() -> None:
    found = by_occasion({"at": at} for at in (2800.0, 0.0, 899.0, 1790.0, 2691.0))
    assert [[one["at"] for one in group] for group in found] == [[0.0, 899.0, 1790.0], [2691.0, 2800.0]]


@pytest.mark.parametrize("tau", [0.0, 0.5, 2.0])
def test_the_interval_of_drift_holds_it(tau: float) -> None:
    """Williams's and Tukey's is made for equal groups, and then holds at least as often as it says."""
    rng, held, middle = np.random.default_rng(7), 0, []
    for _ in range(DRAWS):
        groups = [rng.normal(rng.normal(0.0, tau), 1.0, 4) for _ in range(9)]
        sd, (low, high) = between(groups)
        assert low <= sd <= high
        held += low <= tau <= high
        middle.append(sd**2)
    assert held / DRAWS > 0.95 - OFF
    assert held / DRAWS < 0.98 or tau == 0.0
    assert tau == 0.0 or np.mean(middle) == pytest.approx(tau**2, rel=0.15)


def test_drift_needs_two_occasions() -> None:
    with pytest.raises(ValueError, match="two occasions"):
        between([np.array([1.0, 2.0])])
    with pytest.raises(ValueError, match="two launches"):
        between([np.array([1.0]), np.array([2.0])])


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_interval_of_two_deviations_holds_their_ratio(shared: float) -> None:
    rng, held = np.random.default_rng(8), 0
    for _ in range(DRAWS):
        other = rng.standard_normal(9)
        ours = 2.0 * (shared * other + math.sqrt(1 - shared**2) * rng.standard_normal(9))
        ratio, (low, high) = steadier(ours, other)
        assert low < ratio < high
        held += low <= 2.0 <= high
    assert held / DRAWS == pytest.approx(0.95, abs=OFF)


def test_a_mean_change_has_student_s_interval() -> None:
    mean, half = mean_change(np.array([1.0, 2.0, 3.0]))
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / math.sqrt(3.0), rel=1e-6)  # t of two degrees, from a table
    assert math.isnan(mean_change(np.array([1.0]))[1])


def test_what_tells_an_occasion_leaves_less_of_it_and_what_does_not_leaves_more() -> None:
    by = np.arange(9.0)
    noise = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1]) * 0.01
    correlation, slope, rest = explained(3.0 * by + noise, by)
    assert correlation > 0.999
    assert slope == pytest.approx(3.0, abs=0.01)
    assert rest < 0.01
    assert explained(noise, by)[2] > 1.0


def test_few_occasions_are_pulled_towards_the_prior() -> None:
    groups = [np.full(4, value) + np.array([-0.001, 0.001, -0.001, 0.001]) for value in (-0.02, 0.02)]
    sd, cautious = with_prior(groups)
    assert 0.006 < sd < between(groups)[0]
    assert sd < cautious


def launch(at: float, z: float, arm: str = "same") -> dict[str, object]:
    """A launch of the record whose candidate takes e^z of each control."""
    step = 1e5 * math.exp(z)
    controls = {name: [1e5] * 8 for name in report.RATIOS}
    gate = {"candidate": [step] * 8, "frozen_before": [1e5] * 8, "frozen_after": [1e5] * 8, "slowed": [0] * 8}
    return {"at": at, "dtype": "bf16", "arm": arm, "gate": gate, "controls": {"candidate": [step] * 8, **controls}}


def test_two_files_of_one_occasion_are_told_as_one() -> None:
    head = {"class": "made-up", "host": "abc", "boot": "def"}
    rng = np.random.default_rng(1)
    files = [(head, [launch(start + n, float(rng.normal(0.8, 0.01))) for n in range(3)]) for start in (0, 90, 9000)]
    for _, launches in files:
        for index, one in enumerate(launches):  # no two alike, so that every control has a spread
            one["controls"] = {name: [v * (1 + 0.01 * index) for v in vs] for name, vs in one["controls"].items()}  # type: ignore[attr-defined]
    text = report.text(files)
    assert "9 launches, 2 occasions (3 files), 1 hosts, 1 boots" in text
