"""Measure each workload once, bound it by the roofline, look up its baseline, keep one record of all its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from genqual.cases import REPEATED, Case, Json, Workload, compute_dtype
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.gate.controller import Judging
from genqual.gate.decision import GATED
from genqual.gate.verdict import GateResult
from genqual.metrics import compute as metrics
from genqual.metrics import measure
from genqual.metrics.measure import Measurement, Measurements
from genqual.metrics.utilisation import Roofline
from genqual.models.prompts import synthetic_rows
from genqual.ranks.client import Generator
from genqual.session.recorder import Recorder, evidence

WARMUP: Final = 1
PROBE: Final = "genqual.metrics.roofline:probe"


@dataclass(frozen=True, slots=True)
class Published:
    """One workload's metrics and what the gate says of each, with the record that keeps them."""

    measurement: Measurement
    metrics: dict[str, metrics.Measured]
    gates: dict[str, GateResult]
    record: Path

    @property
    def summary(self) -> dict[str, Json]:
        """Every metric's value, for pytest-benchmark's `extra_info`."""
        return {name: one.value for name, one in self.metrics.items()}


class Measuring:
    """What the performance items of one process share: each is of the same runs, so TTFT and TPOT belong together."""

    def __init__(
        self,
        repetitions: int,
        progress: Callable[[str], None],
        judging: Judging,
        protocol: Mapping[str, str] | None = None,
    ) -> None:
        self.wrong: set[Case] = set()  # cases that failed a judgement: their latencies are of wrong answers
        self._judging = judging
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
        self._published: dict[tuple[Case, Workload], Published] = {}

    def protocol_of(self, case: Case, workload: Workload) -> dict[str, Json]:
        """How this workload is measured; of a measurement that failed, too."""
        own: dict[str, Json] = {"prompts_sent": "each once"} if _fresh(case, workload) else {}
        return {**self.protocol, **own}

    def publish(
        self,
        generator: Generator,
        workload: Workload,
        recorder: Recorder,
        *,
        weights_sha256: str | None,
        inspect: Callable[[], Mapping[str, Json]],
        label: str,
        metric: str | None,
        excuse: Callable[[Case, Workload, str, GateResult], str | None],
    ) -> Published:
        """The metrics of `workload`, measured, judged and recorded at the first call.

        `metric` is the one whose verdict the caller gives; None where it gives none, as a limit does: only what other
        items ask about is judged then. `excuse` says of a verdict why it is WAIVED, or None. `inspect` asks the ranks
        what ran, after it ran. Raises Unsupported, EngineFailed or BadClock at every call for the same workload;
        GroupLost as it is.
        """
        case = generator.case
        key = (case, workload)
        known = self._published.get(key)
        # A metric that no item's mark names, asked about after a limit had the workload measured, is judged only now.
        if known is None or (metric in known.metrics and metric not in known.gates):
            with recorder.attempt(
                case,
                workload,
                weights_sha256=weights_sha256,
                protocol=self.protocol_of(case, workload),
                inspect=inspect,
                label=label,
            ):
                measured = self._measurements.get(case, workload, lambda: self._measure(generator, workload))
                if key not in self._inspected:
                    self._inspected[key] = inspect() if measured.status == "ok" else evidence(inspect)
                found = self._metrics(generator, measured) if measured.status == "ok" else {}
            gates = self._gates(generator, measured, found, metric)
            wrong = case in self.wrong
            path = recorder.measurement(
                case,
                workload,
                found,
                gates,
                weights_sha256=weights_sha256,
                protocol=self.protocol_of(case, workload),
                inspection=self._inspected[key],
                status="accuracy_fail" if wrong and measured.status == "ok" else measured.status,
                message=measured.message or ("this case failed a judgement in the same run" if wrong else ""),
                label=label,
                labels=_labels(generator, measured),
                runs=measured.runs,
                peaks=self._peaks(case),
                waived={name: reason for name, gate in gates.items() if (reason := excuse(case, workload, name, gate))},
            )
            self._published[key] = Published(measured, found, gates, path)
        return self._published[key]

    def gate_at_most_s(self, case: Case, metric: str) -> float | None:
        """Seconds of the most launches that the gate makes of a case, by those that it made; None before the first."""
        return self._judging.at_most_s(case, metric)

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
            )

    def _metrics(self, generator: Generator, measured: Measurement) -> dict[str, metrics.Measured]:
        return metrics.compute(
            measured.runs,
            measured.workload,
            measured.loaded,
            rooflines=self._roofline(generator),
            peak_memory=measured.peak_memory,
            hits=measured.workload.prompts == REPEATED,
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

    def _peaks(self, case: Case) -> dict[str, float]:
        """The least of the ranks' peaks, where they were probed."""
        probed = self._rooflines.get(case, ())
        if not probed:
            return {}
        return {
            f"{case.dtype}_flop": min(one.flop_per_s for one in probed),
            "read_bytes": min(one.reads[-1].bytes_per_s for one in probed),
        }

    def _gates(
        self, generator: Generator, measured: Measurement, found: dict[str, metrics.Measured], metric: str | None
    ) -> dict[str, GateResult]:
        """What the gate says of each metric; nothing of those that it could judge and no item asks about."""
        case, question = generator.case, self._judging.question
        asked = question.asked.get(case, frozenset()) | {metric}  # None, where only a limit is held against it
        weights = [rank.weight_hash for rank in measured.loaded]
        return {
            name: self._judging.judge(generator, weights, measured.workload, one)
            for name, one in found.items()
            if name in asked or name not in GATED or measured.workload != question.gated[name]
        }


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
