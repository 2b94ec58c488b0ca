"""Tests that fail for a known reason, or end before their verdict: excused, and recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from genqual.cases import Case
from genqual.errors import BadInput, GenqualError
from genqual.models.registry import resolve
from genqual.ranks.errors import GroupLost
from genqual.session import outcome
from genqual.session.context import Run
from genqual.session.item import parameters_of, property_of


def without_verdict(item: pytest.Item, case: Case, run: Run, error: GenqualError | GroupLost) -> Path:
    """The record of a property whose test ended before its verdict: an older PASS is not the newest word on it."""
    sha256 = weights(run, case)
    waiver = run.waivers.excuse(item.nodeid, f"{type(error).__name__}: {error}", lambda: sha256)
    return run.records.recorder.without_verdict(
        case,
        error,
        prop=property_of(item),
        weights_sha256=sha256,
        prompts=run.selection.profile.prompts,
        label=item.nodeid,
        protocol=parameters_of(item),
        waived=None if waiver is None else waiver.reason,
    )


def weights(run: Run, case: Case) -> str | None:
    """The SHA-256 of the case's weights; None where they cannot be read, which may be what failed."""
    try:
        return run.references.weights_sha256(case.model)
    except BadInput:
        return None


def waive(item: pytest.Item, case: Case, run: Run, report: pytest.TestReport) -> None:
    """A known failure is WAIVED; one that is known and passes fails, so that no waiver outlives its reason."""
    known = run.waivers.in_force(item.nodeid, lambda: weights(run, case))
    if known and report.passed:
        report.outcome = "failed"
        report.longrepr = f"unexpected pass (WAIVED): remove the waiver {' and '.join(map(str, known))}"
    elif report.failed:
        said = f"{report.longreprtext}\n{outcome.of_item(item).failure}"
        waiver = next((one for one in known if one.excuses(said)), None)
        if waiver is None:
            return
        if not waiver.weights and resolve(case.model).source != "embedded":
            run.warn(waiver.of_any(weights(run, case)))
        report.outcome = "skipped"
        outcome.tell(item, verdict="waived")
        path, line, _ = item.location
        report.longrepr = (path, line or 0, f"WAIVED: {waiver.reason}: {report.longreprtext}")
