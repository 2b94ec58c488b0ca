"""What one check found of one part of a node, and the verdict that findings make together. Pure: no clock, no I/O.

Unknown is never fit, of an optional check neither: it ran and gave no signal, which may hide anything. A required
check has to say OK. What a kernel or a device cannot tell is UNAVAILABLE, not 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = "1.1"
"""1.1: findings may have a `fingerprint`. Documents of 1.0 are read, too."""


class Outcome(StrEnum):
    """What a check says of one entity."""

    OK = "ok"
    BAD = "bad"
    UNKNOWN = "unknown"  # it ran, or should have, and gave no signal
    UNAVAILABLE = "unavailable"  # this kernel, device or user cannot tell
    ALLOWED = "allowed"  # bad, known, and on the allow-list until a date


class Severity(StrEnum):
    """How much an outcome matters, mildest first."""

    NOTE = "note"
    WARNING = "warning"
    DEGRADED = "degraded"
    FATAL = "fatal"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Threshold(_Frozen):
    """The limit that a signal was held against. `source` says where it comes from: a standard, a file, a sibling."""

    value: float
    unit: str
    source: str


class Fingerprint(_Frozen):
    """A digest that every node of a hardware class should have alike. `of` says of what, and by which software."""

    of: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Finding(_Frozen):
    """One check, one entity. `signal` is what was measured, in the threshold's unit; None where nothing was."""

    check: str
    entity: str
    outcome: Outcome
    required: bool = False
    signal: float | None = None
    threshold: Threshold | None = None
    severity: Severity = Severity.NOTE
    component: str = ""
    action: str = ""
    evidence: str = ""
    next_command: str = ""
    seconds: Annotated[float, Field(ge=0.0)] = 0.0
    fingerprint: Fingerprint | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Finding:
        if self.outcome is Outcome.OK and self.required and self.signal is None:
            raise ValueError(
                f"{self.check} of {self.entity}: OK without a signal; a required check that saw nothing is unknown"
            )
        if self.outcome in (Outcome.BAD, Outcome.UNKNOWN) and not self.evidence:
            raise ValueError(f"{self.check} of {self.entity}: {self.outcome} without evidence")
        return self

    @property
    def against(self) -> bool:
        """Whether this finding alone makes a node unfit."""
        silent = self.outcome is Outcome.UNAVAILABLE and self.required
        return silent or self.outcome in (Outcome.BAD, Outcome.UNKNOWN)


class Allowed(_Frozen):
    """A known finding that may stay until `expires`, with the reason that somebody gave."""

    check: str
    entity: str
    reason: Annotated[str, Field(min_length=1)]
    expires: date

    def excuses(self, finding: Finding, today: date) -> bool:
        """Whether this entry is meant for the finding and still holds; only what is BAD can be excused."""
        same = (self.check, self.entity) == (finding.check, finding.entity)
        return same and finding.outcome is Outcome.BAD and today <= self.expires


class NodeVerdict(_Frozen):
    """The document of `genqual node`: one verdict, and every finding that made it."""

    schema_version: Literal["1.0", "1.1"] = SCHEMA_VERSION
    verdict: Literal["fit", "unfit"]
    reasons: tuple[str, ...]
    node: str
    hardware_class: str
    level: str
    began: AwareDatetime
    seconds: float
    required: tuple[str, ...]
    findings: tuple[Finding, ...]
    scope: str = "A pass covers only the checks that are listed here, for the time that they ran."

    @model_validator(mode="after")
    def _agrees_with_its_findings(self) -> NodeVerdict:
        reasons = why_unfit(self.findings, self.required)
        if (self.verdict == "fit") is bool(reasons):
            raise ValueError(
                f"verdict {self.verdict!r} contradicts its findings: {'; '.join(reasons) or 'none against'}"
            )
        return self

    @property
    def exit_code(self) -> int:
        """0 fit, 1 unfit."""
        return 0 if self.verdict == "fit" else 1


def why_unfit(findings: Iterable[Finding], required: Iterable[str]) -> tuple[str, ...]:
    """Every reason, sorted, so that the order in which checks ran changes nothing. Empty: fit."""
    found = list(findings)
    seen = {one.check for one in found}
    reasons = [
        f"{one.check} of {one.entity}: {one.outcome}: {one.evidence or 'no signal'}" for one in found if one.against
    ]
    reasons += [f"{name}: required, and never ran" for name in set(required) - seen]
    if not found:
        reasons.append("no check gave a signal")
    return tuple(sorted(reasons))


def allow(findings: Iterable[Finding], entries: Iterable[Allowed], today: date) -> list[Finding]:
    """The findings with what is known and excused marked ALLOWED, the reason beside the evidence."""
    known = list(entries)
    made = []
    for one in findings:
        entry = next((entry for entry in known if entry.excuses(one, today)), None)
        if entry is not None:
            said = f"{one.evidence} (allowed until {entry.expires}: {entry.reason})"
            one = one.model_copy(update={"outcome": Outcome.ALLOWED, "evidence": said})
        made.append(one)
    return made


def verdict_of(
    findings: Iterable[Finding],
    *,
    required: Iterable[str],
    node: str,
    hardware_class: str,
    level: str,
    began: datetime | None = None,
    seconds: float = 0.0,
) -> NodeVerdict:
    """The verdict that these findings make: fit where each required check said OK and nothing is bad."""
    kept = tuple(sorted(findings, key=lambda one: (one.check, one.entity)))
    names = tuple(sorted(set(required)))
    reasons = why_unfit(kept, names)
    return NodeVerdict(
        verdict="unfit" if reasons else "fit",
        reasons=reasons,
        node=node,
        hardware_class=hardware_class,
        level=level,
        began=began or datetime.now(UTC),
        seconds=seconds,
        required=names,
        findings=kept,
    )
