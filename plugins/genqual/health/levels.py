"""How long a node is checked and by what: levels, their checks in order, and the run over them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from genqual.health.checks.answers import KnownAnswers
from genqual.health.checks.base import Check, Node
from genqual.health.checks.counters import Window
from genqual.health.checks.generation import Generation
from genqual.health.checks.siblings import Stragglers
from genqual.health.finding import Allowed, Finding, NodeVerdict, Outcome, allow, verdict_of

SECONDS: Final = {"1": 60.0, "2": 120.0, "3": 900.0}
"""Wall time of each level. Each runs every check; a longer one computes longer, which finds rarer faults."""

# The most revealing first: what computes wrong, then what generates wrong, then what is slow.
CHECKS: Final[tuple[Check, ...]] = (KnownAnswers(), Generation(), Stragglers())


@dataclass(frozen=True, slots=True)
class Level:
    """A name and the seconds that a run may take."""

    name: str
    seconds: float

    def shares(self, checks: Sequence[Check]) -> list[float]:
        """Seconds for each check: what it takes at least, and an equal part of what is left where more time helps."""
        left = self.seconds - sum(one.seconds for one in checks)
        stretching = sum(one.stretches for one in checks)
        return [one.seconds + (max(0.0, left) / stretching if one.stretches else 0.0) for one in checks]


def run(
    node: Node,
    level: Level,
    *,
    name: str,
    hardware_class: str,
    allowed: Iterable[Allowed] = (),
    checks: Sequence[Check] = CHECKS,
) -> NodeVerdict:
    """Every check of `level` within one window of counters. A check that raises is UNKNOWN, never a pass."""
    began, start = datetime.now(UTC), time.monotonic()
    window = Window.begin(node.root)
    findings: list[Finding] = []
    for check, seconds in zip(checks, level.shares(checks), strict=True):
        findings += _timed(check, node, seconds)
    findings += window.end(node.root)
    return verdict_of(
        allow(findings, allowed, began.date()),
        required=[one.name for one in checks if one.required],
        node=name,
        hardware_class=hardware_class,
        level=level.name,
        began=began,
        seconds=round(time.monotonic() - start, 3),
    )


def _timed(check: Check, node: Node, seconds: float) -> list[Finding]:
    start = time.monotonic()
    try:
        found = list(check.run(node, seconds))
    except Exception as error:  # noqa: BLE001  whatever it was, this check has no signal, and the others still run
        why = f"the check itself failed: {type(error).__name__}: {error}"
        outcome = Outcome.UNKNOWN
        found = [Finding(check=check.name, entity="host", outcome=outcome, required=check.required, evidence=why)]
    took = round((time.monotonic() - start) / max(1, len(found)), 3)
    return [one.model_copy(update={"seconds": took}) for one in found]
