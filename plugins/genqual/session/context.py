"""One run of the suite: rank groups, references, measurements and the spool, shared by its tests."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.cases import Case, Json, Workload
from genqual.conformance.judgement import ENVELOPE_FACTOR, Judgement
from genqual.conformance.oracle.registry import Oracle, parameters_of
from genqual.conformance.references.make import Reference
from genqual.devices.base import Placement
from genqual.devices.registry import devices
from genqual.engines.base import Scores
from genqual.engines.registry import engine
from genqual.errors import GenqualError
from genqual.gate.controller import Judging, Question
from genqual.gate.launch_plan import gated_workloads
from genqual.gate.other_build import build_of
from genqual.gate.verdict import GateResult
from genqual.models import weights
from genqual.models.fresh_prompts import FreshPrompts
from genqual.models.registry import resolve
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.deadlines import Deadlines
from genqual.ranks.group_spec import GroupPlan, plan
from genqual.ranks.pool import Pool
from genqual.records.software import versions
from genqual.session import run_manifest
from genqual.session.benchmark import Measuring, Published
from genqual.session.causes import Causes
from genqual.session.failure_message import again
from genqual.session.inspection import Inspections, ran_if_alive
from genqual.session.options import Options
from genqual.session.oracles import Oracles
from genqual.session.profiles import workload_ids
from genqual.session.record_fields import DISTRIBUTIONS
from genqual.session.recorder import Recorder
from genqual.session.reference_store import ReferenceStore
from genqual.session.selection import Selection
from genqual.session.timed_accuracy import TimedAccuracy
from genqual.session.waivers import Register, read
from genqual.storage.push import PushReport, push
from genqual.storage.spool import Spool


class Run:
    """What the tests of one process share. Nothing is started or read before a test asks."""

    def __init__(
        self, options: Options, selection: Selection, identifier: str, progress: Callable[[str], None]
    ) -> None:
        self.options = options
        self.selection = selection
        self.id = identifier
        self.progress = progress
        self.state = Path(options.state_dir).absolute()
        self.warnings: list[str] = []
        self.pushed: PushReport | None = None
        self.causes = Causes()
        self.asked: dict[Case, frozenset[str]] = {}
        """The metrics that this run's items ask about, by case; known when collection is over."""
        self.first_item: dict[tuple[Case, Workload], str] = {}
        """The item that names a measurement which several share: the first by id, whichever asks first."""
        self.waivers = Register([], date.max)
        self.stale_waivers: list[str] = []
        self._generators: dict[Case, Generator] = {}
        self._others: dict[Case, Generator] = {}
        self._inspections = Inspections()
        self._oracles = Oracles(progress, lambda: self.pool.leases.taken())

    @classmethod
    def of(cls, config: pytest.Config, selection: Selection) -> Run:
        """The run of this pytest process; an xdist worker belongs to its controller's run."""
        given = getattr(config, "workerinput", {}).get("genqual_run")
        return cls(Options.of(config), selection, given or secrets.token_hex(8), _progress_of(config))

    @cached_property
    def pool(self) -> Pool:
        """Live rank groups; room for two, because comparing degrees of tensor parallelism needs two."""
        return Pool(2, progress=self.progress)

    @cached_property
    def spool(self) -> Spool:
        return Spool(self.state / "spool", announce=self.warnings.append)

    @cached_property
    def logs(self) -> Path:
        """Where ranks write their output; a temporary directory where the state directory cannot be written."""
        wanted = self.state / "logs" / self.id
        try:
            wanted.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            elsewhere = Path(tempfile.mkdtemp(prefix="genqual-logs-"))
            self.warnings.append(
                f"{wanted} cannot be written ({error.strerror}), so the ranks' logs are in {elsewhere}"
            )
            return elsewhere
        return wanted

    @cached_property
    def recorder(self) -> Recorder:
        """Writes the records of this run."""
        return Recorder(self.spool, self.id, shlex.join(["pytest", *sys.argv[1:]]), self.journal)

    @property
    def journal(self) -> Path:
        """Where the attempts of this run are noted before they begin, by every process of it."""
        return self.state / "attempts" / f"{self.id}.jsonl"

    def keep_manifest(self, records: Iterable[Path]) -> None:
        """Write what `genqual sign` signs; where it cannot be written, a warning says so."""
        problem = run_manifest.keep(self.state, self.id, self.journal, self.spool, self.selection.probed, records)
        if problem:
            self.warnings.append(problem)

    def generator(self, case: Case) -> Generator:
        """The handle of `case`; its ranks start at the first call."""
        if case not in self._generators:
            self._generators[case] = Generator(self.pool, self._plan(case))
            self._generators[case].prompts = self.prompts
        return self._generators[case]

    def begin(self, case: Case, beside: Case) -> None:
        """Start the processes of a case that is judged soon, on a core that `beside`, judged now, leaves idle.

        Does nothing where there is none. What fails is told when the case is asked for.
        """
        device, busy = devices()[case.device], frozenset(self.generator(beside).plan.placement.lease)
        spare = Placement(env=())
        with contextlib.suppress(GenqualError, OSError):
            if device.torch_device == "cpu":
                # As many cores as a rank will have: OpenMP counts them once, and waits otherwise where they are few.
                spare = device.place(1, max(1, case.cores_per_rank), taken=self.pool.leases.taken() | busy)
            if not busy & set(spare.lease):
                self.pool.begin(self.generator(case).plan, spare)

    def _plan(self, case: Case) -> GroupPlan:
        return plan(
            case,
            self.logs,
            placement=devices()[case.device].place(case.ranks, case.cores_per_rank, taken=self.pool.leases.taken()),
            options=self.options.of_engine(engine(case.engine).settings),
            launcher=self.options.launcher,
            deadlines=Deadlines(scale=self.options.deadline_scale),
        )

    @cached_property
    def references(self) -> ReferenceStore:
        """What models are judged by: references and oracles."""
        return ReferenceStore(self.options.references, self._oracles)

    def weights_sha256(self, model: str) -> str | None:
        """SHA-256 of the whole checkpoint, or None where it cannot be read in this process."""
        return self.references.weights_sha256(model)

    def reference(self, model: str) -> Reference | str:
        """The oracle's reference of `model`, or why there is none. Raises BadInput on one that is not sound."""
        return self.references.reference(model)

    def oracle(self, model: str) -> Oracle:
        """Who said the reference of `model`: our own implementation, or transformers in a process on the CPU."""
        return self.references.oracle(model)

    def against_oracle(
        self,
        case: Case,
        scores: Scores,
        text: NDArray[np.int64],
        steps: int,
        *,
        limit: float,
        factor: float = ENVELOPE_FACTOR,
    ) -> Judgement:
        """Judge `scores` of the last `steps` tokens of the row `text`: `ReferenceStore.against_oracle`."""
        return self.references.against_oracle(case, scores, text, steps, limit=limit, factor=factor)

    def exact_logits(self, model: str) -> NDArray[np.float64]:
        """The oracle's whole logits (steps, rows, vocabulary) on the tokens of the model's reference."""
        return self.references.exact_logits(model)

    def parameters(self, model: str) -> int | None:
        """Weights of the whole model, or None where it cannot be read in this process."""
        spec = resolve(model)
        if spec.source not in ("embedded", "directory"):
            return None
        # What the architecture declares: a checkpoint may also store buffers and heads that no engine loads.
        declared = parameters_of(weights.config(spec), weights.lazily(spec)) if spec.source == "directory" else None
        return weights.count(spec) if declared is None else declared

    def read_waivers(self) -> None:
        """Known failures of the selected devices that hold on this hardware and these versions. Raises BadInput."""
        where = Path(self.options.waivers) if self.options.waivers else data_dir("baselines") / "waivers"
        found = []
        for name in self.selection.devices:
            own = read(where / f"{name}.toml")
            if own and self.selection.presence(name).present:
                class_id, here = devices()[name].identity().class_id, versions(DISTRIBUTIONS)
                found += [one for one in own if one.holds(class_id, here)]
        self.waivers = Register(found, datetime.now(UTC).date())

    def close_waivers(self, *, whole: Collection[str], selected: Collection[str]) -> None:
        """After the last test: what of the waivers fails the run."""
        workloads = None if self.options.own_workloads else workload_ids(self.options.profile)
        self.stale_waivers += self.waivers.problems(whole=whole, selected=selected, workloads=workloads)

    def inspection(self, case: Case) -> dict[str, Json]:
        """What rank 0 says really runs, for a verdict; see `Inspections`."""
        return self._inspections.of(self.generator(case))

    @cached_property
    def accuracy(self) -> TimedAccuracy:
        """Whether the answers of timed paths are right."""
        return TimedAccuracy(self.generator, self.reference, self.oracle)

    @cached_property
    def measuring(self) -> Measuring:
        """What the performance items share."""
        profile = self.selection.profile
        return Measuring(profile.repetitions, self.progress, self._judging(), profile.protocol)

    @cached_property
    def prompts(self) -> FreshPrompts:
        """What engines whose cache outlives a request are timed with."""
        return FreshPrompts.of_process(self.options.prompt_seed or self.id)

    def _judging(self) -> Judging:
        options = self.options
        question = Question(
            asked=self.asked,
            gated=gated_workloads(self.selection.workloads()),
            baselines=Path(options.baselines) if options.baselines else data_dir("baselines") / "latency",
            under_test=options.under_test,
            budget_s=options.gate_budget or self.selection.profile.gate_budget,
        )
        other = self._other if options.baseline_from else None
        return Judging(question, self.progress, self._why_not_right, other, partial(again, options))

    def _other(self, case: Case) -> Generator:
        """The same case in the ranks of the build that `--baseline-from` names."""
        if case not in self._others:
            build = build_of(str(self.options.baseline_from), self.state / "builds")
            other = replace(self._plan(case), python=build.python, path=build.path, former_names=build.former_names)
            self._others[case] = Generator(self.pool, other)
            self._others[case].prompts = self.prompts
        return self._others[case]

    def _why_not_right(self, case: Case) -> str:
        if case in self.measuring.wrong:
            return "this case failed a judgement in the same run, and the latency of wrong answers is worth nothing"
        return self.accuracy.why_not_right(case)

    def publish(self, case: Case, workload: Workload, metric: str | None, *, label: str) -> Published:
        """The metrics of a workload, measured and recorded at the first call. Raises as `Measuring.publish` does."""
        generator = self.generator(case)
        return self.measuring.publish(
            generator,
            workload,
            self.recorder,
            weights_sha256=self.weights_sha256(case.model),
            inspect=lambda: ran_if_alive(self.pool, generator),
            label=self.first_item.get((case, workload), label),
            metric=metric,
            excuse=self._excuse,
        )

    def _excuse(self, case: Case, workload: Workload, metric: str, gate: GateResult) -> str | None:
        failure = gate.failure(f"{case} {workload.id} {metric}", gate=self.options.gate)
        return self.waivers.excuse_metric(case.id, workload.id, metric, failure)

    def unsupported(
        self,
        case: Case,
        reason: str,
        workload: Workload | None = None,
        protocol: Mapping[str, Json] | None = None,
    ) -> Path:
        """Record that the case's engine cannot run it, or cannot run a workload that is measured by `protocol`."""
        weights_sha256 = self.weights_sha256(case.model)
        return self.recorder.unsupported(
            case, reason, weights_sha256=weights_sha256, workload=workload, protocol=protocol
        )

    def push(self) -> None:
        """Send what is spooled; an upload never changes a verdict."""
        if self.options.uploads:
            self.pushed = push(self.spool, self.options.uploads)

    def close(self) -> None:
        """End every rank of this process. Harmless twice."""
        self._oracles.close()
        if "pool" in self.__dict__:
            self.pool.close_all()


RUN = pytest.StashKey[Run]()


def _progress_of(config: pytest.Config) -> Callable[[str], None]:
    """A line on the terminal for long steps; nothing where output is no terminal, or pytest is quiet."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")

    def show(text: str) -> None:
        terminal = reporter or config.pluginmanager.get_plugin("terminalreporter")
        capture = config.pluginmanager.get_plugin("capturemanager")
        if terminal is None or capture is None or not terminal.isatty or config.option.verbose < 0:
            return
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"  genqual: {text}", cyan=True)

    return show
