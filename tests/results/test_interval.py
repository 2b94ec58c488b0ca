from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from genqual.analysis import interval
from genqual.analysis.interval import ratio_interval
from genqual.records.metric import Metric


def metric(samples: list[float], statistic: str = "median", value: float | None = None) -> Metric:
    made = float(np.median(samples)) if value is None else value
    return Metric(name="tpot", unit="s", value=made, samples=tuple(samples), statistic=statistic, better="lower")


def noisy(seed: int, count: int, centre: float = 1.0, sigma: float = 0.1) -> list[float]:
    source = random.Random(seed)
    return [centre * source.lognormvariate(0.0, sigma) for _ in range(count)]


def by_hand(over: list[list[float]], under: list[list[float]], resamples: int = 4000) -> tuple[float, float]:
    """The same two-level bootstrap in plain Python: draw attempts, then samples within each, then their medians."""
    source = random.Random(99)

    def once(side: list[list[float]]) -> float:
        drawn = [source.choice(side) for _ in side]
        return statistics.median(statistics.median(source.choices(one, k=len(one))) for one in drawn)

    ratios = [once(over) / once(under) for _ in range(resamples)]
    low, *_, high = statistics.quantiles(ratios, n=40)
    return low, high


@pytest.mark.parametrize(
    ("over", "under"),
    [
        ([noisy(1, 40)], [noisy(2, 30, 2.0)]),
        ([noisy(1, 20), noisy(3, 20, 1.3), noisy(4, 20, 0.8)], [noisy(2, 30), noisy(5, 30)]),
    ],
)
def test_the_interval_agrees_with_a_bootstrap_by_hand(over: list[list[float]], under: list[list[float]]) -> None:
    found = ratio_interval([metric(one) for one in over], [metric(one) for one in under])
    assert found == pytest.approx(by_hand(over, under), rel=0.03)


def test_launches_that_differ_widen_the_interval_though_their_steps_do_not() -> None:
    steady = [metric([1.0] * 50) for _ in range(4)]
    apart = [metric([value] * 50) for value in (0.8, 0.9, 1.1, 1.2)]
    assert ratio_interval(steady, steady) == (1.0, 1.0)
    found = ratio_interval(apart, steady)
    assert found is not None
    assert found[0] < 0.9 < 1.1 < found[1]


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 pairs without any difference: 95 % of the intervals should hold 1; 88 % is four sigma below that."""
    pairs = [(metric(noisy(2 * n, 30)), metric(noisy(2 * n + 1, 30))) for n in range(200)]
    found = [ratio_interval([one], [other]) for one, other in pairs]
    assert sum(both is not None and both[0] <= 1.0 <= both[1] for both in found) >= 176


def test_the_same_records_give_the_same_interval() -> None:
    one, other = [metric(noisy(1, 20))], [metric(noisy(2, 20))]
    assert ratio_interval(one, other) == ratio_interval(one, other)


def test_many_samples_are_drawn_in_parts_with_the_same_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = [metric(noisy(1, 200))], [metric(noisy(2, 200))]
    whole = ratio_interval(one, other)
    monkeypatch.setattr(interval, "CHUNK", 1000)
    assert ratio_interval(one, other) == pytest.approx(whole, rel=0.02)


SIDES = {
    "four samples": [metric([1.0, 1.0, 1.0, 1.0])],
    "no samples": [metric([], value=1.0)],
    "an attempt without samples": [metric([1.0] * 9), metric([], value=1.0)],
    "a zero": [metric([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])],
    "a value its samples do not give": [metric([1.0] * 9, value=2.0)],
    "a statistic nobody can repeat": [metric([1.0] * 9, "the slowest rank, once")],
}


@pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)
def test_what_cannot_give_an_interval_gives_none(side: list[Metric]) -> None:
    good = [metric([1.0] * 9)]
    assert ratio_interval(good, good) is not None
    assert ratio_interval(side, good) is None
    assert ratio_interval(good, side) is None


def test_five_samples_over_several_attempts_are_enough() -> None:
    assert ratio_interval([metric([1.0, 1.0]), metric([1.0, 1.0, 1.0])], [metric([2.0] * 5)]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("statistic", "value"),
    [
        ("median over repetitions", 3.0),
        ("mean", 22.0),
        ("90th percentile over the gaps of all repetitions (linear interpolation)", 61.6),
    ],
)
def test_the_statistic_is_the_one_that_the_metric_names(statistic: str, value: float) -> None:
    """Of 1, 2, 3, 4, 100: numbers worked out by hand."""
    side = [metric([1.0, 2.0, 3.0, 4.0, 100.0], statistic, value)]
    assert ratio_interval(side, side) is not None
    wrong = [metric([1.0, 2.0, 3.0, 4.0, 100.0], statistic, value * 1.01)]
    assert ratio_interval(wrong, side) is None
