"""Turn a judgement or a measurement into a record and spool it. The only place that knows what a record is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from genqual import digest
from genqual.cases import Case, Json, Workload
from genqual.conformance.judgement import Judgement, precision_mode_of
from genqual.errors import GenqualError, OutOfMemory, Unsupported
from genqual.gate.verdict import GateResult
from genqual.metrics import compute
from genqual.metrics.registry import definition
from genqual.ranks.errors import GroupLost
from genqual.records import fields, judgement_record
from genqual.records.metric import Gate, Metric
from genqual.records.outputs import Outputs, Ran
from genqual.records.record import Record
from genqual.session.record_fields import asked_bytes, names, subject
from genqual.session.record_fields import workload as asked
from genqual.signing.journal import Journal
from genqual.storage.spool import Spool

Status = Literal["ok", "oom", "timeout", "unsupported", "error", "accuracy_fail", "skipped"]


class Recorder:
    """Writes the records of one run; `label` is a test's id, kept beside a record and never part of its key."""

    def __init__(self, spool: Spool, run: str, command: str, journal: Path | None = None) -> None:
        self._spool = spool
        self._journal = Journal(journal)
        self._run = run
        self._command = command
        self.written: dict[str, Record] = {}
        """Every record of this process, by id: who shows or sends them at the end need not read the spool."""
        self._attempts: Counter[str] = Counter()
        self._begun: set[tuple[Case, Workload, str]] = set()
        self._without_numbers: dict[tuple[Case, Workload, str], Path] = {}

    def _write(self, made: Record) -> Path:
        """Spool as the next attempt at what its key names: a second measurement never stands in for the first."""
        self._attempts[made.key] += 1
        attempt = self._attempts[made.key]
        made = made if attempt == 1 else made.model_copy(update={"attempt": attempt})
        path = self._spool.write(made)
        self.written[made.id] = made
        self._journal.wrote(made.id)
        return path

    @contextmanager
    def attempt(
        self,
        case: Case,
        workload: Workload,
        *,
        weights_sha256: str | None = None,
        protocol: Mapping[str, Json] | None = None,
        inspect: Callable[[], Mapping[str, Json]] = dict,
        label: str = "",
    ) -> Iterator[None]:
        """Around the measuring of a workload: noted before it begins, recorded when it ends without numbers.

        The record has the key that the numbers would have had, so that it takes their place in every table. `inspect`
        says what ran, and is asked after the failure; a lost group says nothing. What was begun and left no record
        shows in the run's manifest, whoever ended it.
        """
        protocol = dict(protocol or {})
        what = (case, workload, digest.of_json(protocol))
        if what in self._begun:
            yield
            return
        self._begun.add(what)
        self._journal.begin(_subject(case, workload))
        try:
            yield
        except (GenqualError, GroupLost) as error:
            text = error.headline if isinstance(error, GroupLost) else str(error)
            self._without_numbers[what] = self.measurement(
                case,
                workload,
                {},
                {},
                weights_sha256=weights_sha256,
                protocol=protocol,
                inspection={} if isinstance(error, GroupLost) else evidence(inspect),
                status=_status(error),
                message=f"{type(error).__name__}: {text}",
                label=label,
            )
            raise

    def without_numbers(self, case: Case, workload: Workload, protocol: Mapping[str, Json]) -> Path | None:
        """The record of an attempt of this run that ended without numbers, if there was one."""
        return self._without_numbers.get((case, workload, digest.of_json(dict(protocol))))

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
        waived: str | None = None,
    ) -> Path:
        """A verdict on one property; `shape` is (steps, rows) of what was judged, `protocol` the test's parameters.

        `waived` says why a failure is excused: the record keeps its verdict, and every table shows WAIVED.
        """
        return self._write(
            Record(
                run=self._run,
                kind="judgement",
                **subject(case, weights_sha256, inspection),
                workload=fields.Workload(
                    prompts=prompts, steps=shape[0] if shape else None, batch=shape[1] if shape else None
                ),
                outcome=_outcome(judgement),
                judgement=judgement_record.Judgement.of(prop, judgement),
                protocol=dict(protocol),
                labels={"test": label} | ({} if waived is None else {"waived": waived}),
                command=self._command,
            )
        )

    def without_verdict(
        self,
        case: Case,
        error: GenqualError | GroupLost,
        *,
        prop: str,
        weights_sha256: str | None,
        prompts: str,
        label: str,
        protocol: Mapping[str, Json],
        waived: str | None = None,
    ) -> Path:
        """A test of a property that ended by `error` before its verdict: it takes an older verdict's place.

        The record's verdict is how it ended (error, oom, timeout), and its tier `none`: nothing was judged.
        """
        text = error.headline if isinstance(error, GroupLost) else str(error)
        ended = _ended(_status(error), f"{type(error).__name__}: {text}", "judge")
        judged = judgement_record.Judgement(
            property=prop,
            verdict=ended.status,
            lane=precision_mode_of(case.dtype),
            tier="none",
            explanation=ended.message or "",
        )
        return self._write(
            Record(
                run=self._run,
                kind="judgement",
                **subject(case, weights_sha256, {}),
                workload=fields.Workload(prompts=prompts),
                outcome=ended,
                judgement=judged,
                protocol=dict(protocol),
                labels={"test": label} | ({} if waived is None else {"waived": waived}),
                command=self._command,
            )
        )

    def measurement(
        self,
        case: Case,
        workload: Workload,
        measured: Mapping[str, compute.Measured],
        gates: Mapping[str, GateResult],
        *,
        weights_sha256: str | None,
        protocol: Mapping[str, Json],
        inspection: Mapping[str, Json],
        status: Status = "ok",
        message: str = "",
        phase: str = "generate",
        label: str = "",
        labels: Mapping[str, str] | None = None,
        runs: Sequence[Ran] = (),
        peaks: Mapping[str, float] | None = None,
        waived: Mapping[str, str] | None = None,
    ) -> Path:
        """Every metric of one workload, each with its verdict; or the status that says why there is none.

        `waived` says of a metric why its failure is excused. `runs` are the timed runs, whose tokens are kept for an
        audit; `peaks` what a roofline probe measured, per second and rank; `labels` are kept beside the test's, and are
        no part of the key.
        """
        kept = tuple(
            Metric.of(
                one,
                definition=definition(name).formula,
                gate=Gate.of(gates[name]) if name in gates else None,
            )
            for name, one in measured.items()
        )
        outputs = Outputs.of(runs)
        found = subject(case, weights_sha256, inspection)
        found["system"] = found["system"].with_peaks(peaks or {}, "roofline probe of this run, one rank")
        return self._write(
            Record(
                run=self._run,
                kind="measurement",
                **found,
                workload=asked(case, workload, inspection, outputs.lengths if outputs else None),
                outcome=_ended(status, message, phase),
                metrics=kept,
                outputs=outputs,
                protocol=dict(protocol),
                labels={"subject": _subject(case, workload), **(labels or {})}
                | ({"test": label} if label else {})
                | {f"waived {name}": reason for name, reason in (waived or {}).items()},
                command=self._command,
            )
        )

    def unsupported(
        self,
        case: Case,
        reason: str,
        *,
        weights_sha256: str | None,
        workload: Workload | None = None,
        protocol: Mapping[str, Json] | None = None,
    ) -> Path:
        """An engine that cannot run a case, with its reason: a row of its own in every comparison.

        With a `workload`, the row is that of the workload's measurement; an attempt that recorded it is not repeated.
        """
        if workload is None:
            return self._write(
                Record(
                    run=self._run,
                    kind="measurement",
                    **subject(case, weights_sha256, {}),
                    workload=fields.Workload(),
                    outcome=_ended("unsupported", reason, "load"),
                    command=self._command,
                )
            )
        protocol = dict(protocol or {})
        what = (case, workload, digest.of_json(protocol))
        if what not in self._without_numbers:
            self._without_numbers[what] = self.measurement(
                case,
                workload,
                {},
                {},
                weights_sha256=weights_sha256,
                protocol=protocol,
                inspection={},
                status="unsupported",
                message=reason,
                phase="load",
            )
        return self._without_numbers[what]


def _subject(case: Case, workload: Workload) -> str:
    """What the journal calls an attempt."""
    return f"{case} {workload.id}"


def _status(error: BaseException) -> Status:
    """How an attempt ended that raised `error`; ranks that gave no answer in time are a timeout."""
    if isinstance(error, OutOfMemory):  # its killer may have ended the whole group: a GroupLost as well
        return "oom"
    if isinstance(error, Unsupported):
        return "unsupported"
    if isinstance(error, GroupLost) and error.timed_out:
        return "timeout"
    return "error"


def evidence(inspect: Callable[[], Mapping[str, Json]]) -> Mapping[str, Json]:
    """What ran, where the ranks can still say it: a failure is recorded with or without it."""
    try:
        return inspect()
    except (GenqualError, GroupLost):
        return {}


def _ended(status: Status, message: str, phase: str) -> fields.Outcome:
    """How a measurement ended; this host's name does not stand in the message."""
    return fields.Outcome(
        status=status,
        phase=phase,
        bytes=asked_bytes(message) if status == "oom" else None,
        message=names().text(message) or None,
    )


def _outcome(judgement: Judgement) -> fields.Outcome:
    if judgement.status == "fail":
        return fields.Outcome(status="accuracy_fail", phase="judge", message=judgement.explanation)
    if judgement.status == "pass":
        return fields.Outcome()
    return fields.Outcome(status="skipped", phase="judge", message=judgement.explanation)
