"""Judge one metric against its baseline. Pure: no pytest, no torch, no clock."""

from __future__ import annotations

from genqual.performance.baseline import Entry
from genqual.performance.metrics import Metric
from genqual.performance.verdict import GateResult, Verdict


def judge(metric_key: str, measured: Metric, baseline: Entry | None) -> GateResult:
    """The verdict on `measured`, whose subject has the content key `metric_key`.

    One launch is not evidence: launches of unchanged code differ by more than a regression worth finding
    (docs/performance.md, "Verdicts"), so no number of this one run is ever compared. Raises ValueError when `baseline`
    is another subject's.
    """
    if baseline is not None and baseline.subject.key != metric_key:
        raise ValueError(f"{measured.name}: key {metric_key[:12]}, but the baseline's is {baseline.subject.key[:12]}")
    if measured.value is None:
        return GateResult(Verdict.INCONCLUSIVE, f"{measured.name} was not measured: {measured.note}", metric_key)
    if baseline is None:
        why = f"no baseline of {measured.name} for this hardware, model, engine and workload: recorded, not judged"
        return GateResult(Verdict.NO_BASELINE, why, metric_key, launches=1)
    why = f"a single launch cannot be judged against the {len(baseline.launches)} launches of the baseline"
    return GateResult(Verdict.INCONCLUSIVE, why, metric_key, launches=1)
