"""The hardware's own counters over the whole run of the other checks: read before, read after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from genqual.health.counters import kernel_log
from genqual.health.counters.base import Reading, Source, changes
from genqual.health.counters.edac import Edac
from genqual.health.counters.interrupts import Interrupts
from genqual.health.counters.throttle import Throttle
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.outcomes import bad

SOURCES: Final[tuple[Source, ...]] = (Edac(), Interrupts(), Throttle())
PRIVILEGES: Final = "root or CAP_SYSLOG for the kernel's log; without it, that part is unavailable"


@dataclass(frozen=True, slots=True)
class Window:
    """The counters when a window began."""

    readings: tuple[tuple[Source, Reading], ...]
    log: kernel_log.Mark

    @classmethod
    def begin(cls, root: Path) -> Window:
        """Read every source now. Takes some milliseconds."""
        return cls(tuple((source, source.read(root)) for source in SOURCES), kernel_log.mark(root / "dev/kmsg"))

    def end(self, root: Path) -> list[Finding]:
        """What changed since `begin`, one finding a signal that moved, and one a source that did not."""
        found = [finding for source, before in self.readings for finding in _judged(source, before, source.read(root))]
        return [*found, *_logged(kernel_log.since(self.log, root / "dev/kmsg"))]


def _judged(source: Source, before: Reading, after: Reading) -> Iterator[Finding]:
    quiet = 0
    for change in changes(source.name, before, after):
        if change.amount is None:
            # A source that is not there cannot tell; one that lost or reset a counter in the window should have.
            outcome = Outcome.UNKNOWN if change.signal else Outcome.UNAVAILABLE
            yield Finding(check=source.name, entity=change.entity, outcome=outcome, evidence=change.note)
        elif change.amount:
            yield bad(
                f"{source.name}.{change.signal}",
                change.entity,
                f"{change.signal} rose by {change.amount:g} in the window",
                signal=change.amount,
                threshold=Threshold(value=0.0, unit="events", source="any in the window"),
            )
        else:
            quiet += 1
    if quiet:
        yield Finding(
            check=source.name,
            entity="host",
            outcome=Outcome.OK,
            signal=0.0,
            threshold=Threshold(value=0.0, unit="events", source="any in the window"),
            evidence=f"{quiet} counters did not move",
        )


def _logged(found: list[kernel_log.KernelEvent] | str) -> Iterator[Finding]:
    if isinstance(found, str):
        yield Finding(check="kernel_log", entity="host", outcome=Outcome.UNAVAILABLE, evidence=found)
        return
    limit = Threshold(value=0.0, unit="events", source="any in the window")
    if not found:
        yield Finding(check="kernel_log", entity="host", outcome=Outcome.OK, signal=0.0, threshold=limit)
    for event in found:
        yield bad(f"kernel_log.{event.kind}", event.entity, event.text[:400], signal=1.0, threshold=limit)


Begin = Callable[[Path], Window]
