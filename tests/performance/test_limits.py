"""Limits of a profile: met at the bound, missed beyond it, and never met by what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from genqual.errors import BadInput
from genqual.metrics import slo
from genqual.metrics.compute import Measured


def of(metric: str, value: float) -> Measured:
    """A metric of that value; its other fields do not matter here."""
    return Measured(metric, "", value, (value,), "", "lower")


@pytest.mark.parametrize(
    ("key", "bound", "value", "words"),
    [
        ("tpot_ms", 100, 0.0999, (True, "MEETS tpot_ms = 100: 99.9")),
        ("tpot_ms", 100, 0.1, (True, "MEETS tpot_ms = 100: 100")),
        ("tpot_ms", 100, 0.1001, (False, "MISSES tpot_ms = 100: 100.1")),
        ("tokens_per_s", 50, 49.9, (False, "MISSES tokens_per_s = 50: 49.9")),
        ("tokens_per_s", 50, 51, (True, "MEETS tokens_per_s = 50: 51")),
        ("peak_memory_mib", 1.5, 2.0**20, (True, "MEETS peak_memory_mib = 1.5: 1")),
        ("mbu", 0.5, 0.25, (False, "MISSES mbu = 0.5: 0.25")),
    ],
)
def test_a_limit_is_met_or_missed(key: str, bound: float, value: float, words: tuple[bool, str]) -> None:
    (limit,) = slo.read({key: bound})
    assert limit.said(of(limit.metric, value)) == words


def test_what_was_not_measured_is_missed() -> None:
    (limit,) = slo.read({"tpot_ms": 100})
    assert limit.said(None) == (False, "MISSES tpot_ms = 100: this workload has no tpot")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param(
            {"tpot": 1},
            r"limits: unknown key 'tpot', did you mean tpot_ms\? \(known are ttft_ms, tpot_ms",
            id="table0-limit 'tpot': may be ttft_ms, tpot_ms",
        ),
        pytest.param(
            {"tpot_ms": 0},
            r"limits: tpot_ms = 0: must be greater than 0",
            id="table1-limit tpot_ms = 0: must be a number above 0",
        ),
        pytest.param(
            {"tpot_ms": "fast"}, r"limits: tpot_ms = 'fast': must be a valid number", id="table2-limit tpot_ms = 'fast'"
        ),
        pytest.param({"tpot_ms": True}, r"limits: tpot_ms = True: must be", id="table3-limit tpot_ms = True"),
        ({"tpot_ms": float("nan")}, "limits: tpot_ms = nan: must be greater than 0"),
    ],
)
def test_a_limit_that_is_none_is_named(table: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        slo.read(table)
