"""Unknown is not success: what each verdict counts as, and what a gate without its statistics may say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from genqual.gate.verdict import GateResult, Verdict


@pytest.mark.parametrize(
    ("verdict", "judged", "passed", "fails", "fails_gate"),
    [
        (Verdict.PASS, True, True, False, False),
        (Verdict.IMPROVED, True, True, False, False),
        (Verdict.REGRESSED, True, False, True, True),
        (Verdict.INCONCLUSIVE, False, False, False, True),
        (Verdict.NO_BASELINE, False, False, False, True),
        (Verdict.RECORDED, False, False, False, False),
    ],
)
def test_what_a_verdict_counts_as(verdict: Verdict, judged: bool, passed: bool, fails: bool, fails_gate: bool) -> None:
    assert (verdict.judged, verdict.passed) == (judged, passed)
    assert (verdict.fails(gate=False), verdict.fails(gate=True)) == (fails, fails_gate)


def test_the_table_above_is_complete() -> None:
    assert len(Verdict) == 6
    assert Verdict.NO_BASELINE.label == "NO BASELINE"


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": " "},
        {"estimate": math.nan},
        {"e_value": math.inf},
        {"interval": (0.0, math.nan)},
        {"interval": (0.1, 0.0)},
        {"verdict": Verdict.PASS},
        {"verdict": Verdict.REGRESSED, "estimate": 0.1},
    ],
)
def test_a_result_cannot_be_built_wrong(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {"verdict": Verdict.INCONCLUSIVE, "reason": "noisy", "metric_key": "k", "launches": 0}
    GateResult(**good)
    with pytest.raises(ValueError, match=r"reason|finite|low end|judged"):
        GateResult(**(good | changes))


def test_a_result_is_plain_data() -> None:
    result = GateResult(Verdict.REGRESSED, "5 % slower", "k", 0.05, (0.04, 0.06), 2000.0, 3)
    assert json.loads(json.dumps(result.as_json(), allow_nan=False)) == {
        "verdict": "regressed",
        "reason": "5 % slower",
        "metric_key": "k",
        "estimate": 0.05,
        "interval": [0.04, 0.06],
        "e_value": 2000.0,
        "launches": 3,
    }
