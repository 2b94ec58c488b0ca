"""How long a node is checked and by what: levels, their checks in order, and the run over them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from genqual.errors import BadInput
from genqual.health.checks.answers import KnownAnswers
from genqual.health.checks.base import Check, Node, unknown
from genqual.health.checks.counters import Window
from genqual.health.checks.generation import Generation
from genqual.health.checks.quorum import Quorum
from genqual.health.checks.rank_steps import RankSteps
from genqual.health.checks.repeats import Repeats
from genqual.health.checks.siblings import Stragglers
from genqual.health.checks.soak import Soak
from genqual.health.finding import Allowed, Finding, NodeVerdict, Outcome, allow, verdict_of
from genqual.health.run_state import RunState

SECONDS: Final = {"1": 60.0, "2": 120.0, "3": 900.0}
"""Wall time of each level. Each runs the checks that fit; a longer one computes longer, which finds rarer faults."""

# The most revealing first: what computes wrong, what generates wrong, once or rarely, what is slow, what gets slow.
CHECKS: Final[tuple[Check, ...]] = (
    KnownAnswers(),
    Generation(),
    Repeats(),
    Stragglers(),
    Quorum(),
    RankSteps(),
    Soak(),
)


@dataclass(frozen=True, slots=True)
class Level:
    """A name and the seconds that a run may take."""

    name: str
    seconds: float

    def fitting(self, checks: Sequence[Check]) -> list[Check]:
        """Every required check, and those optional ones, in order, for which there is time."""
        left = self.seconds - sum(one.seconds for one in checks if one.required)
        kept = []
        for one in checks:
            if one.required or one.seconds <= left:
                kept.append(one)
                left -= 0.0 if one.required else one.seconds
        return kept

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
    state: RunState | None = None,
) -> NodeVerdict:
    """Every check of `level`, each within its window of counters. A check that raises is UNKNOWN, never a pass.

    `state` keeps each check's findings as soon as it has ended. Those that it holds from an interrupted run count as if
    they were found now, and their checks do not run again.
    """
    began, start = datetime.now(UTC), time.monotonic()
    kept = state.begin(began) if state else None
    done = dict(kept.checks) if kept else {}
    began, before = (kept.began, kept.seconds) if kept else (began, 0.0)
    window = _reopened(kept.window) if kept and kept.window else Window.begin(node.root)
    if state:
        state.opened(window.as_json())
    findings: list[Finding] = []
    fitting = level.fitting(checks)
    for check, seconds in zip(fitting, level.shares(fitting), strict=True):
        if check.name in done:
            node.say(f"{check.name}: kept from the interrupted run")
        else:
            found = _timed(check, node, seconds)
            following = Window.begin(node.root)  # before the other ends: told twice at worst, and never lost
            done[check.name] = (*found, *window.end(node.root))
            window = following
            if state:
                state.keep(check.name, done[check.name], before + time.monotonic() - start, window.as_json())
        findings += done[check.name]
    findings += [_no_time(check, level) for check in checks if check not in fitting]
    return verdict_of(
        allow(_once(findings), allowed, datetime.now(UTC).date()),
        required=[one.name for one in checks if one.required],
        node=name,
        hardware_class=hardware_class,
        level=level.name,
        began=began,
        seconds=round(before + time.monotonic() - start, 3),
    )


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """Each window's counters say the same while nothing moves: what is quiet or unavailable is told once."""
    kept: dict[tuple[str, str, str, str], Finding] = {}
    for number, one in enumerate(findings):
        quiet = not one.component and one.check != "energy" and not one.required
        key = (one.check, one.entity, str(one.outcome), one.evidence if quiet else str(number))
        kept.setdefault(key, one)
    return list(kept.values())


def _reopened(kept: dict[str, Any]) -> Window:
    """The window that an interrupted run had open. Raises BadInput on a damaged one."""
    try:
        return Window.of_json(kept)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"--resume: the counters that the interrupted run kept cannot be read ({type(error).__name__}: {error}); "
            "delete its state file and start anew"
        ) from None


def _timed(check: Check, node: Node, seconds: float) -> list[Finding]:
    start = time.monotonic()
    found: list[Finding] = []
    try:
        for one in check.run(node, seconds):
            found.append(one)  # one by one: what was found before an error is not lost with it
    except Exception as error:  # noqa: BLE001  whatever it was, this check has no signal, and the others still run
        found.append(unknown(check, "host", f"the check itself failed: {type(error).__name__}: {error}"))
    if not found:
        found = [unknown(check, "host", "the check ended without a finding")]
    took = round((time.monotonic() - start) / max(1, len(found)), 3)
    return [one.model_copy(update={"seconds": took}) for one in found]


def _no_time(check: Check, level: Level) -> Finding:
    why = f"left out: it takes {check.seconds:.0f} s, which the {level.seconds:.0f} s of this level do not leave"
    return Finding(check=check.name, entity="host", outcome=Outcome.UNAVAILABLE, evidence=why)


@contextmanager
def alone(wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of this user's `genqual node` on this host. Raises BadInput where another run holds it too long."""
    lock = FileLock(Path(tempfile.gettempdir()) / f"genqual-node-{os.getuid()}.lock", timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(f"another `genqual node` of this user is running ({lock.lock_file}); wait for it") from None
    try:
        yield
    finally:
        lock.release()
