"""The decision: of each platform the best configuration that meets the limits, or why none does. Pure.

The page's script repeats this rule when a reader changes a limit; tests/results/report hold the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from genqual.analysis.published.prices import Price
from genqual.analysis.report.rows import ReportRow

READING_MS: Final = 100.0
"""The time a token at which a fast person reads: the limit until a reader gives another."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reader wants. None is no limit; `model` None is every model, each for itself."""

    model: str | None = None
    input: int | None = None
    new: int | None = None
    batch: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = READING_MS
    bits: int = 0
    cited: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """One model on one platform: `best`, or None and the `why` of every configuration that was looked at."""

    model: str
    platform: str
    best: ReportRow | None
    why: str
    looked_at: int


def decide(rows: Sequence[ReportRow], asked: Asked) -> list[Choice]:
    """By model and platform; the best gives most tokens a second and device, or has the shortest time a token."""
    groups: dict[tuple[str, str], list[ReportRow]] = {}
    for row in rows:
        if _concerns(row, asked):
            groups.setdefault((row.model, row.platform), []).append(row)
    found = []
    for (model, platform), some in sorted(groups.items()):
        reasons = [refusal(row, asked) for row in some]
        fitting = [row for row, reason in zip(some, reasons, strict=True) if not reason]
        best = max(fitting, key=lambda row: (row.per_device or 0.0, -(row.user_ms or 0.0)), default=None)
        counted = Counter(reason for reason in reasons if reason)
        why = "; ".join(f"{count} {reason}" for reason, count in sorted(counted.items(), key=lambda i: (-i[1], i[0])))
        found.append(Choice(model, platform, best, why, len(some)))
    return found


def refusal(row: ReportRow, asked: Asked) -> str:
    """Why this row does not qualify, or nothing. The order is that of the page's script."""
    if row.status == "accuracy_fail" or row.accuracy == "wrong":
        return "wrong text"
    if not row.ok:
        return "out of memory" if row.status == "oom" else row.status.replace("_", " ")
    if row.provenance == "simulated":
        return "simulated"
    if row.bits < asked.bits:
        return "below the precision floor"
    if asked.ttft_ms is not None and row.ttft_ms is None:
        return "TTFT unknown"
    if asked.ttft_ms is not None and row.ttft_ms is not None and row.ttft_ms > asked.ttft_ms:
        return "TTFT over the limit"
    if asked.tpot_ms is not None and row.user_ms is None:
        return "TPOT unknown"
    if asked.tpot_ms is not None and row.user_ms is not None and row.user_ms > asked.tpot_ms:
        return "TPOT over the limit"
    return ""


def dollars(
    row: ReportRow, prices: Sequence[Price], utilisation: float = 1.0
) -> tuple[float, float | None, float | None]:
    """$ per million new tokens and the ends of its interval; NaN where the price or the rate is unknown."""
    if row.price is None or not row.tokens_per_s:
        return float("nan"), None, None
    per_hour = prices[row.price].of(row.devices) / utilisation
    one = per_hour / 3600 * 1e6
    return (
        one / row.tokens_per_s,
        one / row.high if row.high else None,
        one / row.low if row.low else None,
    )


def _concerns(row: ReportRow, asked: Asked) -> bool:
    """Whether the row answers the question at all. A number that a source leaves out answers every length."""
    wanted = ((asked.input, row.input), (asked.new, row.new), (asked.batch, row.batch))
    return (
        (asked.model is None or row.model == asked.model)
        and all(want is None or have is None or have == want for want, have in wanted)
        and (asked.cited or row.provenance == "measured")
        and row.user_kind + row.status != "ok"  # a row of load or memory alone
    )
