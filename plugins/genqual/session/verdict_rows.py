"""One row a verdict of this run, read off the reports: what the job summary and the annotations are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pytest

from genqual.analysis.terminal.display import number, shown
from genqual.cases import case_id_in
from genqual.records.record import Record
from genqual.session import outcome

WORST_FIRST: Final = (
    *("HARDWARE", "ERROR", "FAIL", "REGRESSED", "NO REFERENCE", "INCONCLUSIVE", "NO BASELINE", "WAIVED"),
    *("IMPROVED", "PASS", "RECORDED", "NOT APPLICABLE", "UNSUPPORTED", "ABSENT", "SKIPPED"),
)
UNSUPPORTED: Final = "unsupported: "
"""What the reason of a test begins with whose engine cannot run its case."""

_UNJUDGED: Final = frozenset({"NO REFERENCE", "INCONCLUSIVE", "NO BASELINE"})


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a verdict compares: `now` with `baseline`, both with their unit, and `ratio`; empty where there is none."""

    baseline: str = ""
    now: str = ""
    ratio: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict, of what, whether it fails the run, why, and the next command (each may be empty but the first two)."""

    verdict: str
    nodeid: str
    failed: bool
    why: str = ""
    metric: str = ""
    estimate: float | None = None
    record: str | None = None
    next: str = ""

    @property
    def case(self) -> str:
        return case_id_in(self.nodeid) or self.nodeid

    @property
    def what(self) -> str:
        """The metric or property with the test's other parameters: `tpot b1-i128-n32`, `left padding ... pad1`."""
        test, _, parameters = self.nodeid.rpartition("::")[2].partition("[")
        rest = parameters.removesuffix("]").removeprefix(self.case).removeprefix("-")
        return f"{self.metric or test.removeprefix('test_').replace('_', ' ')} {rest}".strip()

    @property
    def unjudged(self) -> bool:
        """Whether something should have been judged and was not."""
        return self.verdict in _UNJUDGED

    def numbers(self, records: Mapping[str, Record]) -> Numbers:
        """Baseline, now and ratio, from the test's record among `records` by id.

        Of a timed metric, `baseline` is what the gate's ratio makes of the number of now: what the baseline amounts to
        on this host in this hour. Of a property, the error against its limit.
        """
        record = records.get(self.record) if self.record is not None else None
        if record is None:
            return Numbers()
        if record.judgement is not None:
            error, limit = record.judgement.nrms, record.judgement.limit
            if error is None or not limit:
                return Numbers()
            return Numbers(f"error up to {limit:.3g}", f"{error:.3g}", f"{error / limit:.3g}")
        metric = next((one for one in record.metrics if one.name == self.metric), None)
        if metric is None or metric.value is None:
            return Numbers()
        show = shown(metric.name, metric.unit)
        unit = f" {show.unit}" if show.unit else ""
        now = f"{number(metric.value * show.scale)}{unit}"
        if self.estimate is None or self.estimate <= -1:
            return Numbers(now=now)
        ratio = 1 + self.estimate
        return Numbers(f"{number(metric.value * show.scale / ratio)}{unit}", now, f"{ratio:.3f}")


class VerdictRows:
    """Collects the rows of one run; under xdist the controller sees every worker's reports."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    @property
    def rows(self) -> list[Row]:
        """Every verdict, the worst first, and by test id."""
        return sorted(self._rows.values(), key=lambda row: (WORST_FIRST.index(row.verdict), row.nodeid))

    def add(self, report: pytest.TestReport) -> None:
        """Take the verdict of a test of this suite; a test without a case is another package's, and its own matter."""
        told = outcome.of_report(report)
        if not told.device:
            return
        word = _word(report, told.verdict or "")
        # A teardown that fails is an error of its own; one that passes says nothing of the test.
        if word is None or (report.nodeid in self._rows and not report.failed):
            return
        self._rows[report.nodeid] = Row(
            word,
            report.nodeid,
            failed=report.failed,
            why=skipped_for(report),
            metric=told.metric,
            estimate=None if told.change is None else told.change.estimate,
            record=told.records[-1].stem if told.records else None,
            next=told.next,
        )


def _word(report: pytest.TestReport, verdict: str) -> str | None:
    """The verdict of a report, in the words of the terminal; None where this phase gives none."""
    label = verdict.upper().replace("_", " ")
    if report.failed:
        # `pass` and a failure: a waiver that outlived its reason, or a teardown.
        label = label if label in (*_UNJUDGED, "REGRESSED", "HARDWARE") else "FAIL"
        return label if report.when == "call" else "ERROR"
    if report.skipped:
        why = skipped_for(report)
        named = "UNSUPPORTED" if why.startswith(UNSUPPORTED) else "ABSENT" if " is absent: " in why else "SKIPPED"
        return label or named
    return (label or "PASS") if report.when == "call" else None


def skipped_for(report: Any) -> str:
    """Why a test was skipped, or failed, as its report tells it; nothing of one that passed."""
    if report.passed:
        return ""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return str(text).removeprefix("Skipped: ")
