"""What other rules say of the launches that a run of the gate made. Pure: no clock, no pytest.

A rule that compares two launches is given the first one of the run, and the last one of its baseline: what it would
have had, had it been the gate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from genqual.gate.decision import decide, settings_for
from genqual.gate.verdict import Verdict
from tests.benchmarks.runs.record import Run

OPEN: Final = "open"  # the launches that were made decide nothing by this rule, which would have made more
LIMIT: Final = 1.05


def of_now(run: Run) -> list[dict[str, Any]]:
    """The launches of stage one that measured TPOT."""
    return [one for one in run["launches"] if one["list"] == 0 and one["side"] == "now" and one["launch"]]


def former(run: Run) -> str:
    """The gate before it counted drift: the same evidence with a drift of 0, at the metric's own tolerance."""
    settings, values = settings_for("tpot", 1), [float(one["launch"]["z"]) for one in of_now(run)]
    for count in range(settings.k_min, len(values) + 1):
        found = decide(run["baseline"]["z"], values[:count], settings).verdict
        if found is not None:
            return str(found.value)
    return OPEN


def compared(statistic: str) -> Callable[[Run], str]:
    """One launch against one: `--benchmark-compare-fail=STATISTIC:5%` of pytest-benchmark, whose rounds are steps."""

    def rule(run: Run) -> str:
        now, then = of_now(run), run["baseline"]["step_s"]
        if not now or not then or statistic not in now[0]["step_s"]:
            return OPEN
        slower = now[0]["step_s"][statistic] > LIMIT * then[statistic]
        return str((Verdict.REGRESSED if slower else Verdict.PASS).value)

    return rule


RULES: Final[dict[str, Callable[[Run], str]]] = {
    "former rule": former,
    "mean * 1.05, pytest-benchmark mean:5%": compared("mean"),
    "pytest-benchmark min:5%": compared("min"),
    "pytest-benchmark median:5%": compared("median"),
}


def stages(launches: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of launches by stage. The first list that a run begins is stage one; all others take turns in stage two.

    Without a baseline of its own a run has one list of each side, and all of it is stage two.
    """
    first = sum(one["took_s"] for one in launches if one["list"] == 0)
    return {"stage_one": round(first, 1), "stage_two": round(sum(one["took_s"] for one in launches) - first, 1)}
