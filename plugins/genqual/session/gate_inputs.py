"""What a run's items ask of the gate, and what the gate is told beside the measurements."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from genqual.cases import Case, Workload
from genqual.gate.controller import Question
from genqual.gate.launch_plan import gated_workloads
from genqual.gate.verdict import GateResult
from genqual.paths import data_dir
from genqual.session.options import Options
from genqual.session.selection import Selection
from genqual.session.waivers import Register


class GateInputs:
    """Filled when collection is over: the gate's error rates hold for all metrics of a run together."""

    def __init__(self, options: Options, selection: Selection, waivers: Register) -> None:
        self._options = options
        self._selection = selection
        self._waivers = waivers
        self._asked: dict[Case, frozenset[str]] = {}
        self._first_item: dict[tuple[Case, Workload], str] = {}

    def ask(self, case: Case, workload: Workload | None, metric: str, nodeid: str) -> None:
        """The test `nodeid` will ask for the verdict on `metric`, of `workload` where it names one."""
        self._asked[case] = self._asked.get(case, frozenset()) | {metric}
        if workload is not None:
            self._waivers.asks(case.id, workload.id, metric, nodeid)

    def share(self, case: Case, workload: Workload, nodeid: str) -> None:
        """The test `nodeid` uses the measurement of `workload`, which others may use, too."""
        self._first_item[case, workload] = min(self._first_item.get((case, workload), nodeid), nodeid)

    def label(self, case: Case, workload: Workload, nodeid: str) -> str:
        """The test that a measurement is named after: the first by id of those that share it, whichever asks first."""
        return self._first_item.get((case, workload), nodeid)

    @cached_property
    def question(self) -> Question:
        """What is asked of the gate; the metrics grow until collection is over."""
        options = self._options
        return Question(
            asked=self._asked,
            gated=gated_workloads(self._selection.workloads()),
            baselines=Path(options.baselines) if options.baselines else data_dir("baselines") / "latency",
            under_test=options.under_test,
            budget_s=options.gate_budget or self._selection.profile.gate_budget,
        )

    def excuse(self, case: Case, workload: Workload, metric: str, gate: GateResult) -> str | None:
        """Why a failure of this verdict is WAIVED, or None where it is not."""
        failure = gate.failure(f"{case} {workload.id} {metric}", gate=self._options.gate)
        return self._waivers.excuse_metric(case.id, workload.id, metric, failure)
