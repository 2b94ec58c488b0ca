"""Turn a judgement or a measurement into a record and spool it. The only place that knows what a record is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from genqual.conformance.judgement import Judgement
from genqual.errors import GenqualError, Unsupported
from genqual.performance import metrics
from genqual.performance.definitions import EVERY
from genqual.performance.verdict import GateResult
from genqual.ranks.errors import GroupLost
from genqual.results import parts, verdict
from genqual.results.metric import Gate, Metric
from genqual.results.outputs import Outputs, Ran
from genqual.results.record import Record
from genqual.results.spool import Spool
from genqual.results.trust.journal import Journal
from genqual.spec import Case, Json, Workload
from genqual.subject import asked_bytes, names, subject
from genqual.subject import workload as asked

Status = Literal["ok", "oom", "timeout", "unsupported", "error", "accuracy_fail", "skipped"]


class Recorder:
    """Writes the records of one run; `label` is a test's id, kept beside a record and never part of its key."""

    def __init__(self, spool: Spool, run: str, command: str, journal: Path | None = None) -> None:
        self._spool = spool
        self._journal = Journal(journal)
        self._run = run
        self._command = command
        self._attempts: Counter[str] = Counter()
        self._begun: set[tuple[Case, Workload]] = set()

    def _write(self, made: Record) -> Path:
        """Spool as the next attempt at what its key names: a second measurement never stands in for the first."""
        self._attempts[made.key] += 1
        attempt = self._attempts[made.key]
        made = made if attempt == 1 else made.model_copy(update={"attempt": attempt})
        path = self._spool.write(made)
        self._journal.wrote(made.id)
        return path

    @contextmanager
    def attempt(self, case: Case, workload: Workload) -> Iterator[None]:
        """Around the measuring of a workload: noted before it begins, recorded when it ends without numbers.

        What was begun and left no record shows in the run's manifest, whoever ended it.
        """
        if (case, workload) in self._begun:
            yield
            return
        self._begun.add((case, workload))
        self._journal.begin(_subject(case, workload))
        try:
            yield
        except (GenqualError, GroupLost) as error:
            text = error.headline if isinstance(error, GroupLost) else str(error)
            self.measurement(
                case,
                workload,
                {},
                {},
                weights_sha256=None,
                protocol={},
                inspection={},
                status="unsupported" if isinstance(error, Unsupported) else "error",
                message=f"{type(error).__name__}: {text}",
            )
            raise

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
        return self._write(
            Record(
                run=self._run,
                kind="judgement",
                **subject(case, weights_sha256, inspection),
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
        labels: Mapping[str, str] | None = None,
        runs: Sequence[Ran] = (),
        peaks: Mapping[str, float] | None = None,
    ) -> Path:
        """Every metric of one workload, each with its verdict; or the status that says why there is none.

        `runs` are the timed runs, whose tokens are kept for an audit; `peaks` what a roofline probe measured, per
        second and rank; `labels` are kept beside the test's, and are no part of the key.
        """
        kept = tuple(
            Metric.of(
                one,
                definition=EVERY[name].formula,
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
                outcome=_ended(status, message),
                metrics=kept,
                outputs=outputs,
                protocol=dict(protocol),
                labels={"subject": _subject(case, workload), **(labels or {})} | ({"test": label} if label else {}),
                command=self._command,
            )
        )

    def unsupported(self, case: Case, reason: str, *, weights_sha256: str | None) -> Path:
        """An engine that cannot run a case, with its reason: a row of its own in every comparison."""
        return self._write(
            Record(
                run=self._run,
                kind="measurement",
                **subject(case, weights_sha256, {}),
                workload=parts.Workload(),
                outcome=parts.Outcome(status="unsupported", phase="load", message=names().text(reason)),
                command=self._command,
            )
        )


def _subject(case: Case, workload: Workload) -> str:
    """What the journal calls an attempt."""
    return f"{case} {workload.id}"


def _ended(status: Status, message: str) -> parts.Outcome:
    """How a measurement ended; this host's name does not stand in the message."""
    return parts.Outcome(
        status=status,
        phase="generate",
        bytes=asked_bytes(message) if status == "oom" else None,
        message=names().text(message) or None,
    )


def _outcome(judgement: Judgement) -> parts.Outcome:
    if judgement.status == "fail":
        return parts.Outcome(status="accuracy_fail", phase="judge", message=judgement.explanation)
    if judgement.status == "pass":
        return parts.Outcome()
    return parts.Outcome(status="skipped", phase="judge", message=judgement.explanation)
