"""The words of the latency gate: what it can say, and why it said it. Pure: the standard library only."""

from __future__ import annotations

import enum
import math
from dataclasses import asdict, dataclass

from genqual.cases import Json


class Verdict(enum.Enum):
    """What was found about one metric against its baseline. Only the first three were judged."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    REGRESSED = "regressed"
    IMPROVED = "improved"
    INCONCLUSIVE = "inconclusive"  # too noisy, too few launches, or rejected ones: never counted as a pass
    NO_BASELINE = "no_baseline"  # nothing to compare with: never counted as a pass
    RECORDED = "recorded"  # a metric that no gate judges: kept, neither passed nor failed

    @property
    def judged(self) -> bool:
        """Whether the metric was compared with a baseline and the comparison decided something."""
        return self in (Verdict.PASS, Verdict.REGRESSED, Verdict.IMPROVED)

    @property
    def passed(self) -> bool:
        """Judged, and not slower. An unjudged metric has not passed."""
        return self in (Verdict.PASS, Verdict.IMPROVED)

    @property
    def label(self) -> str:
        """As a person reads it: `NO BASELINE`."""
        return self.value.upper().replace("_", " ")

    def fails(self, *, gate: bool) -> bool:
        """Whether the test item must fail: a regression always, an unjudged metric in a CI's gate mode only.

        A metric that is only recorded never fails: there is no way in which it could have been judged.
        """
        return self is Verdict.REGRESSED or (gate and not self.judged and self is not Verdict.RECORDED)


@dataclass(frozen=True, slots=True)
class GateResult:
    """One verdict on one metric, with everything that a person needs to doubt it.

    `metric_key` is the content key of `performance.baseline`; `estimate` and `interval` are relative changes of the
    metric (0.05: 5 % more), `e_value` the evidence against "no change", `launches` how many fresh processes were
    looked at. They stay None where nothing was compared.
    """

    verdict: Verdict
    reason: str
    metric_key: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    e_value: float | None = None
    launches: int = 0

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError(f"{self.verdict.label} without a reason: say why")
        numbers = [self.estimate, self.e_value, *(self.interval or ())]
        if not all(math.isfinite(number) for number in numbers if number is not None):
            raise ValueError(f"{self.verdict.label}: estimate, interval and E must be finite, not {numbers}")
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError(f"interval {self.interval}: low end first")
        if self.verdict.judged and (self.estimate is None or self.launches < 1):
            raise ValueError(f"{self.verdict.label} needs an estimate and at least one launch; else it was not judged")

    def failure(self, what: str, *, gate: bool) -> str | None:
        """What the test item of `what` (case, workload, metric) says when this fails it, or None where it does not."""
        if not self.verdict.fails(gate=gate):
            return None
        return f"{what}: {self}" if self.verdict.judged else str(self)

    def __str__(self) -> str:
        return f"{self.verdict.label}: {self.reason}"

    def as_json(self) -> dict[str, Json]:
        """Plain data for a record."""
        interval: list[Json] | None = None if self.interval is None else list(self.interval)
        return asdict(self) | {"verdict": self.verdict.value, "interval": interval}
