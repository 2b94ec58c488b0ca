"""The gate as a session sets it up: what its items ask, which build answers or is paired, where launches are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from genqual.cases import Case, Workload
from genqual.devices.registry import devices
from genqual.gate.case_launches import Taken, past_of
from genqual.gate.controller import Judging, Question
from genqual.gate.decision import GATED
from genqual.gate.history import History
from genqual.gate.launch_plan import LaunchJob, gated_workloads
from genqual.gate.pairing import Pairing
from genqual.gate.verdict import GateResult
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.session.failure_message import again, remake
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
        if metric in self._judges or metric not in GATED:
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
    def _judges(self) -> frozenset[str]:
        return frozenset(self._options.gate_metrics or GATED)

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
            judges=self._judges,
            tolerance=options.gate_tolerance,
        )

    def excuse(
        self, case: Case, workload: Workload, metric: str, gate: GateResult, weights: Callable[[], str | None]
    ) -> str | None:
        """Why a failure of this verdict is WAIVED, or None where it is not; `weights` gives the model's SHA-256."""
        failure = gate.failure(f"{case} {workload.id} {metric}", gate=self._options.gate)
        return self._waivers.excuse_metric(case.id, workload.id, metric, failure, weights)


def judging_of(
    options: Options,
    question: Question,
    progress: Callable[[str], None],
    accuracy: Callable[[Case], str],
    other: Callable[[Case, str], Generator],
    keep: Callable[[Generator, LaunchJob, Taken], None],
) -> Judging:
    """The gate of a run. `other` makes the ranks of a case in the build that a text names; `keep` is given launches."""
    build = options.baseline_from
    return Judging(
        question,
        progress,
        accuracy,
        None if build is None else (lambda case: other(case, build)),
        partial(again, options),
        None if options.no_pair else Pairing(lambda case, entry: other(case, entry.provenance.commit)),
        keep,
        partial(remake, options, question.gated),
    )


def keeping(state: Path, run: str, warn: Callable[[str], None]) -> Callable[[Generator, LaunchJob, Taken], None]:
    """Adds each launch to the history of its class below `state`; where that cannot be written, one warning says so."""
    told: list[str] = []

    def keep(generator: Generator, job: LaunchJob, taken: Taken) -> None:
        if taken.failed or told:
            return
        class_id = devices()[generator.case.device].identity().class_id
        weights = tuple(rank.weight_hash for rank in generator.loaded)
        try:
            History.of(state, class_id).add(past_of(generator.case, weights, job, taken, run))
        except OSError as error:
            told.append(f"the launches of this run are not kept for `genqual rebase`: {error}")
            warn(told[0])

    return keep
