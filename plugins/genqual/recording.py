"""Turn a judgement or a measurement into a record and spool it. The only place that knows what a record is made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from genqual.conformance.judgement import Judgement
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.models.registry import resolve
from genqual.performance import metrics
from genqual.performance.definitions import DEFINITIONS
from genqual.performance.verdict import GateResult
from genqual.results import parts, verdict
from genqual.results.metric import Gate, Metric
from genqual.results.record import Record
from genqual.results.spool import Spool
from genqual.spec import Case, Json, Workload

DISTRIBUTIONS: Final = (
    "torch",
    "transformers",
    "deepspeed",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "pytest",
    "pytest-benchmark",
    "optimum-habana",
    "habana-torch-plugin",
    "bitsandbytes",
    "torchao",
)

Status = Literal["ok", "oom", "timeout", "unsupported", "error", "accuracy_fail", "skipped"]


class Recorder:
    """Writes the records of one run; `label` is a test's id, kept beside a record and never part of its key."""

    def __init__(self, spool: Spool, run: str, command: str) -> None:
        self._spool = spool
        self._run = run
        self._command = command

    def judgement(
        self,
        case: Case,
        judgement: Judgement,
        *,
        prop: str,
        weights_sha256: str | None,
        prompts: str,
        shape: tuple[int, int] | None,
        label: str,
        inspection: Mapping[str, Json],
        protocol: Mapping[str, Json],
    ) -> Path:
        """A verdict on one property; `shape` is (steps, rows) of what was judged, `protocol` the test's parameters."""
        return self._spool.write(
            Record(
                run=self._run,
                kind="judgement",
                **_subject(case, weights_sha256, inspection),
                workload=parts.Workload(
                    prompts=prompts, steps=shape[0] if shape else None, batch=shape[1] if shape else None
                ),
                outcome=_outcome(judgement),
                judgement=verdict.Judgement.of(prop, judgement),
                protocol=dict(protocol),
                labels={"test": label},
                command=self._command,
            )
        )

    def measurement(
        self,
        case: Case,
        workload: Workload,
        measured: Mapping[str, metrics.Metric],
        gates: Mapping[str, GateResult],
        *,
        weights_sha256: str | None,
        protocol: Mapping[str, Json],
        inspection: Mapping[str, Json],
        status: Status = "ok",
        message: str = "",
        label: str = "",
    ) -> Path:
        """Every metric of one workload, each with its verdict; or the status that says why there is none."""
        kept = tuple(
            Metric.of(
                one,
                definition=DEFINITIONS[name].formula,
                gate=Gate.of(gates[name]) if name in gates else None,
            )
            for name, one in measured.items()
        )
        return self._spool.write(
            Record(
                run=self._run,
                kind="measurement",
                **_subject(case, weights_sha256, inspection),
                workload=parts.Workload.of(workload),
                outcome=parts.Outcome(status=status, phase="generate", message=message or None),
                metrics=kept,
                protocol=dict(protocol),
                labels={"test": label} if label else {},
                command=self._command,
            )
        )

    def unsupported(self, case: Case, reason: str, *, weights_sha256: str | None) -> Path:
        """An engine that cannot run a case, with its reason: a row of its own in every comparison."""
        return self._spool.write(
            Record(
                run=self._run,
                kind="measurement",
                **_subject(case, weights_sha256, {}),
                workload=parts.Workload(),
                outcome=parts.Outcome(status="unsupported", phase="load", message=reason),
                command=self._command,
            )
        )


def _subject(case: Case, weights_sha256: str | None, inspection: Mapping[str, Json]) -> dict[str, Any]:
    return {
        "system": _system(case.device, case.ranks * max(1, case.cores_per_rank)),
        "software": _software(),
        "model": parts.Model.of(resolve(case.model), weights_sha256),
        "engine": parts.Engine(
            name=case.engine,
            ranks=case.ranks,
            parallelism=_parallelism(case),
            options={**engine(case.engine).options, "cores_per_rank": case.cores_per_rank},
            inspection=dict(inspection),
        ),
        "precision": parts.Precision(dtype=case.dtype),
    }


def _parallelism(case: Case) -> dict[str, int]:
    """What the ranks share: one model's tensors, or nothing, each with prompts of its own."""
    if case.ranks == 1:
        return {}
    return {"data" if engine(case.engine).streams else "tensor": case.ranks}


@cache
def _system(device: str, used: int) -> parts.System:
    return parts.System.of(devices()[device].identity(), used)


@cache
def _software() -> parts.Software:
    return parts.Software.here(DISTRIBUTIONS)


def _outcome(judgement: Judgement) -> parts.Outcome:
    if judgement.status == "fail":
        return parts.Outcome(status="accuracy_fail", phase="judge", message=judgement.explanation)
    if judgement.status == "pass":
        return parts.Outcome()
    return parts.Outcome(status="skipped", phase="judge", message=judgement.explanation)
