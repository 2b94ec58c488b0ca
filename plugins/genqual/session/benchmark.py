"""Measure each workload once and bound it by the roofline; have it judged; keep one record of all its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from genqual.cases import REPEATED, Case, Json, Workload, compute_dtype
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import BadInput, GenqualError
from genqual.gate.controller import Judging
from genqual.gate.verdict import GateResult
from genqual.metrics import compute as metrics
from genqual.metrics import measure
from genqual.metrics.measure import Measurement, Measurements
from genqual.metrics.utilisation import Roofline
from genqual.models.prompts import synthetic_rows
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.session.energy_window import EnergyWindow, energy_source
from genqual.session.gate_inputs import GateInputs
from genqual.session.groups import Groups, ran_if_alive
from genqual.session.model_reads import reads_of
from genqual.session.recorder import Recorder, evidence
from genqual.session.reference_store import ReferenceStore
from genqual.session.timed_accuracy import TimedAccuracy

WARMUP: Final = 1
PROBE: Final = "genqual.metrics.roofline:probe"
_WRONG: Final = "this case failed a judgement in the same run"


@dataclass(frozen=True, slots=True)
class TimedWorkload:
    """One workload of a case as it was timed, and what ran then. Nothing is judged yet."""

    measurement: Measurement
    metrics: dict[str, metrics.Measured]
    inspection: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Published:
    """One workload's metrics and what the gate says of each, with the record that keeps them."""

    measurement: Measurement
    metrics: dict[str, metrics.Measured]
    gates: dict[str, GateResult]
    record: Path
    inspection: Mapping[str, Json]
    label: str

    @property
    def summary(self) -> dict[str, Json]:
        """Every metric's value, for pytest-benchmark's `extra_info`."""
        return {name: one.value for name, one in self.metrics.items()}


class Measuring:
    """What the performance items of one process share: each is of the same runs, so TTFT and TPOT belong together."""

    def __init__(
        self, repetitions: int, progress: Callable[[str], None], protocol: Mapping[str, str] | None = None
    ) -> None:
        self._repetitions = repetitions
        self._progress = progress
        self.protocol: dict[str, Json] = {
            **{"warmup": WARMUP, "repetitions": repetitions, "hook": "none"},
            **(protocol or {}),
        }
        """What defines the metrics beyond their definition; of a measurement that failed, too."""
        self._measurements = Measurements()
        self._inspected: dict[tuple[Case, Workload], Mapping[str, Json]] = {}
        self._rooflines: dict[Case, tuple[Roofline, ...]] = {}

    def protocol_of(self, case: Case, workload: Workload) -> dict[str, Json]:
        """How this workload is measured; of a measurement that failed, too."""
        own: dict[str, Json] = {"prompts_sent": "each once"} if _fresh(case, workload) else {}
        return {**self.protocol, **own}

    def measured(
        self, generator: Generator, workload: Workload, *, inspect: Callable[[], Mapping[str, Json]]
    ) -> TimedWorkload:
        """The metrics of `workload`, measured at the first call. `inspect` asks the ranks what ran, after it ran.

        Raises Unsupported, EngineFailed or BadClock at every call for the same workload; GroupLost as it is.
        """
        key = (generator.case, workload)
        measurement = self._measurements.get(*key, lambda: self._measure(generator, workload))
        if key not in self._inspected:
            self._inspected[key] = inspect() if measurement.status == "ok" else evidence(inspect)
        found = self._metrics(generator, measurement) if measurement.status == "ok" else {}
        return TimedWorkload(measurement, found, self._inspected[key])

    def peaks(self, case: Case) -> dict[str, float]:
        """The least of the ranks' peaks, where they were probed."""
        probed = self._rooflines.get(case, ())
        if not probed:
            return {}
        return {
            f"{case.dtype}_flop": min(one.flop_per_s for one in probed),
            "read_bytes": min(one.reads[-1].bytes_per_s for one in probed),
        }

    def _measure(self, generator: Generator, workload: Workload) -> Measurement:
        case = generator.case
        shape = (generator.loaded[0].vocabulary, workload.batch, workload.input_length)
        rows: Any = partial(generator.prompts.rows, *shape)
        if not _outlives(generator.case):
            rows = synthetic_rows(*shape, seed=0)
        elif not _fresh(generator.case, workload):
            rows = rows()  # no other workload's, so that the warm-up alone fills the cache
        self._progress(f"measuring {case} {workload.id}")
        with generator.undisturbed():
            return measure.measure(
                generator,
                workload,
                rows,
                repetitions=self._repetitions,
                warmup=WARMUP,
                threads=generator.plan.placement.threads,
                conditions=devices()[case.device].conditions,
                energy=lambda: EnergyWindow(energy_source(generator.plan)),
            )

    def _metrics(self, generator: Generator, measured: Measurement) -> dict[str, metrics.Measured]:
        return metrics.compute(
            measured.runs,
            measured.workload,
            measured.loaded,
            rooflines=self._roofline(generator),
            reads=reads_of(generator.plan.model, generator.case.dtype),
            peak_memory=measured.peak_memory,
            hits=measured.workload.prompts == REPEATED,
            energy=measured.energy,
        )

    def _roofline(self, generator: Generator) -> tuple[Roofline, ...]:
        """What the ranks could do at most, probed once a case, all ranks at the same time."""
        case = generator.case
        if generator.plan.tier == "tokens":
            return ()  # neither its bytes nor its device are ours to see
        if case not in self._rooflines:
            self._progress(f"probing the roofline of {case}")
            params: dict[str, Json] = {
                "dtype": compute_dtype(case.dtype),
                "threads": generator.plan.placement.threads,
                "seconds": 1.0,
            }
            replies = generator.invoke(PROBE, params)
            self._rooflines[case] = tuple(Roofline.from_json(_object(reply.value)) for reply in replies)
        return self._rooflines[case]


def judged(
    judging: Judging, generator: Generator, measured: TimedWorkload, metric: str | None
) -> dict[str, GateResult]:
    """What the gate says of each metric; nothing of those that it could judge and no item asks about.

    `metric` is the one whose verdict the caller gives; None where it gives none, as a limit does: only what other items
    ask about is judged then.
    """
    workload, question = measured.measurement.workload, judging.question
    asked = question.asked.get(generator.case, frozenset()) | {metric}
    weights = [rank.weight_hash for rank in measured.measurement.loaded]
    return {
        name: judging.judge(generator, weights, workload, one)
        for name, one in measured.metrics.items()
        if name in asked or name not in question.judges or workload != question.gated[name]
    }


@dataclass
class Benchmarks:
    """The workloads of one process: each is measured once, judged by what its items ask, and kept as one record."""

    groups: Groups
    references: ReferenceStore
    recorder: Recorder
    gate: GateInputs
    measuring: Measuring
    judging: Judging
    accuracy: TimedAccuracy
    _published: dict[tuple[Case, Workload], Published] = field(default_factory=dict)
    _wrong: set[tuple[Case, Workload]] = field(default_factory=set)  # recorded so

    def publish(self, case: Case, workload: Workload, metric: str | None, *, label: str) -> Published:
        """The metrics of `workload`, measured, judged (see `judged`) and recorded at the first call.

        `label` names the test that asks. Raises as `Measuring.measured` does.
        """
        known = self._published.get((case, workload))
        # A metric that no item's mark names, asked about after a limit had the workload measured, is judged only now.
        if known is None or (metric in known.metrics and metric not in known.gates):
            generator = self.groups.generator(case)
            label = self.gate.label(case, workload, label)
            measured = self._measured(generator, workload, label)
            try:
                gates = judged(self.judging, generator, measured, metric)
            except (GenqualError, GroupLost):
                if known is None:  # what was measured is this run's word on it all the same, with or without a verdict
                    self._publish(generator, workload, measured, {}, label)
                raise
            self._publish(generator, workload, measured, gates, label)
        return self._published[case, workload]

    def now_wrong(self, case: Case) -> None:
        """A judgement failed `case` after some of its workloads were recorded as right: each is recorded again.

        The later record has no metrics, which the first one keeps; of one run's attempts the worst status counts.
        """
        for (of, workload), done in list(self._published.items()):
            if of == case and done.measurement.status == "ok" and (of, workload) not in self._wrong:
                self._wrong.add((of, workload))
                self.recorder.measurement(
                    case,
                    workload,
                    {},
                    {},
                    weights_sha256=self.references.weights_sha256(case.model),
                    protocol=self.measuring.protocol_of(case, workload),
                    inspection=done.inspection,
                    status="accuracy_fail",
                    message=_WRONG,
                    label=done.label,
                )

    def _publish(
        self,
        generator: Generator,
        workload: Workload,
        measured: TimedWorkload,
        gates: dict[str, GateResult],
        label: str,
    ) -> None:
        path = self._record(generator, workload, measured, gates, label)
        done = Published(measured.measurement, measured.metrics, gates, path, measured.inspection, label)
        self._published[generator.case, workload] = done
        if self.accuracy.is_wrong(generator.case):  # as the gate found when it scored the timed path
            self.now_wrong(generator.case)

    def _measured(self, generator: Generator, workload: Workload, label: str) -> TimedWorkload:
        """A measurement that fails is recorded, too."""

        def inspect() -> dict[str, Json]:
            return ran_if_alive(self.groups.pool, generator)

        with self.recorder.attempt(
            generator.case,
            workload,
            weights_sha256=self.references.weights_sha256(generator.case.model),
            protocol=self.measuring.protocol_of(generator.case, workload),
            inspect=inspect,
            label=label,
        ):
            return self.measuring.measured(generator, workload, inspect=inspect)

    def _record(
        self,
        generator: Generator,
        workload: Workload,
        measured: TimedWorkload,
        gates: dict[str, GateResult],
        label: str,
    ) -> Path:
        case, measurement = generator.case, measured.measurement
        wrong = self.accuracy.is_wrong(case)
        if wrong:
            self._wrong.add((case, workload))
        weights = partial(self.references.weights_sha256, case.model)
        excused = {name: self.gate.excuse(case, workload, name, gate, weights) for name, gate in gates.items()}
        return self.recorder.measurement(
            case,
            workload,
            measured.metrics,
            gates,
            weights_sha256=self.references.weights_sha256(case.model),
            protocol=self.measuring.protocol_of(case, workload),
            inspection=measured.inspection,
            status="accuracy_fail" if wrong and measurement.status == "ok" else measurement.status,
            message=measurement.message or (_WRONG if wrong else ""),
            label=label,
            labels=_labels(generator, measurement),
            runs=measurement.runs,
            peaks=self.measuring.peaks(case),
            waived={name: reason for name, reason in excused.items() if reason},
        )


def _outlives(case: Case) -> bool:
    """Whether the engine's cache may hold what earlier requests sent: it is another's process, which stays."""
    return engine(case.engine).tier == "tokens"


def _fresh(case: Case, workload: Workload) -> bool:
    """Whether every request sends prompts that no other did."""
    return _outlives(case) and workload.prompts != REPEATED


def _labels(generator: Generator, measured: Measurement) -> dict[str, str]:
    """What a record keeps of a run beside its metrics: the prompts' seed, what a cache answered, the first piece."""
    runs = measured.runs
    found = {"prompt_seed": generator.prompts.seed} if _outlives(generator.case) else {}
    if any(run.cached_tokens is not None for run in runs):
        told = [None if run.cached_tokens is None else run.cached_tokens.tolist() for run in runs]
        found["cached_tokens"] = json.dumps(told)
    if any(metrics.first_piece(run) > 1 for run in runs):
        found["first_piece"] = json.dumps([metrics.first_piece(run) for run in runs])
    return found


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"the roofline probe answered {type(value).__name__}, not an object; reinstall genqual")
    return value
