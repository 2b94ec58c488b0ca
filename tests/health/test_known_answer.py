"""Known answers: exact whatever kernel adds, one wrong product is found, rates have bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import stats

from genqual.health.known_answer import TILES, Tile, factors, first_wrong, product, rate_bounds

INJECT = ["--inject", "40"]
STRESS = """
import json, sys
from genqual.health import stress
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    stress.main()
"""


@pytest.fixture(scope="module")
def stressed() -> dict[str, list[dict[str, Any]]]:
    """By dtype: a clean run's answer, and that of one whose product 40 is wrong. One process, for one import of torch.

    That `python -m genqual.health.stress` is this `main`, test_levels sees.
    """
    runs = [["--core", "0", "--seconds", "1", "--dtype", dtype, *more] for dtype in TILES for more in ([], INJECT)]
    command = [sys.executable, "-c", STRESS, json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = iter([json.loads(line) for line in done.stdout.splitlines()])
    return {dtype: [next(answers), next(answers)] for dtype in TILES}


@pytest.mark.parametrize(("dtype", "tile"), [(dtype, tile) for dtype in TILES for tile in TILES[dtype]])
def test_no_sum_can_leave_what_the_dtype_holds_exactly(dtype: str, tile: Tile) -> None:
    left, right = factors(tile, dtype, 0)
    most = np.abs(left).max() * np.abs(right).max() * tile.inner
    assert most <= {"fp32": 2**24, "bf16": 256}[dtype]
    assert (np.abs(product(left, right)) > 0).mean() > 0.9, "a lost product would not show in zeros"
    plain = [sum(int(a) * int(b) for a, b in zip(left[0], right[:, column], strict=True)) for column in (0, 7)]
    assert product(left, right)[0, [0, 7]].tolist() == plain


def test_sums_that_are_not_exact_are_refused() -> None:
    with pytest.raises(ValueError, match="not exact in bf16"):
        factors(Tile("long", 1, 512, 8), "bf16", 0)


@pytest.mark.parametrize("value", [5.0, float("nan"), float("inf"), 4.0000001])
def test_whatever_is_not_exactly_right_is_wrong(value: float) -> None:
    got = np.full((2, 3), 4.0)
    got[1, 2] = value
    assert first_wrong(got, np.full((2, 3), 4)) == (1, 2, 1)
    assert first_wrong(np.full((2, 3), 4.0), np.full((2, 3), 4)) is None


@pytest.mark.parametrize("dtype", sorted(TILES))
def test_a_clean_run_has_no_event_and_one_wrong_product_is_found(
    dtype: str, stressed: dict[str, list[dict[str, Any]]]
) -> None:
    clean, found = stressed[dtype]
    assert clean["events"] == []
    assert isinstance(clean["products"], int)
    assert clean["products"] > 50
    assert clean["dtype"] == found["dtype"] == dtype
    (event,) = found["events"]
    assert event["count"] == 40
    assert event["got"] == event["expected"] + 1
    assert (event["again"], event["wrong"]) == (0, 1), "it was one product, once"
    assert found["injected"] is True


@pytest.mark.parametrize(("events", "trials"), [(0, 1000), (1, 1000), (3, 40), (40, 40), (2, 100_000)])
def test_bounds_of_a_rate_are_clopper_and_pearson_s(events: int, trials: int) -> None:
    low, high = rate_bounds(events, trials)
    tail = 0.025 if events else 0.05
    assert low == pytest.approx(0.0 if events == 0 else stats.beta.ppf(tail, events, trials - events + 1), rel=1e-6)
    assert high == pytest.approx(
        1.0 if events == trials else stats.beta.ppf(1 - tail, events + 1, trials - events), rel=1e-6
    )


def test_no_event_is_below_three_in_n_and_nothing_tried_is_no_rate() -> None:
    assert rate_bounds(0, 1_000_000)[1] == pytest.approx(3e-6, rel=0.01)
    with pytest.raises(ValueError, match="say nothing"):
        rate_bounds(0, 0)
