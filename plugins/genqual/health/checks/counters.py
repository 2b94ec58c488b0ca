"""The hardware's own counters over the whole run of the other checks: read before, read after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from genqual.devices.rapl import MOST_WATTS, Energy, joules, read_energy
from genqual.health.counters import kernel_log
from genqual.health.counters.aer import Aer
from genqual.health.counters.base import Reading, Source, changes, reading_json, reading_of_json
from genqual.health.counters.cards import Hlml, Nvml
from genqual.health.counters.edac import Edac
from genqual.health.counters.interrupts import Interrupts
from genqual.health.counters.kernel_event import KernelEvent
from genqual.health.counters.oom import Oom
from genqual.health.counters.pci import placed
from genqual.health.counters.pcie_link import PcieLink
from genqual.health.counters.throttle import Throttle
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.outcomes import bad

SOURCES: Final[tuple[Source, ...]] = (Edac(), Interrupts(), Throttle(), Aer(), PcieLink(), Oom(), Nvml(), Hlml())
PRIVILEGES: Final = "root or CAP_SYSLOG for the kernel's log; without it, that part is unavailable"


@dataclass(frozen=True, slots=True)
class Window:
    """The counters when a window began."""

    readings: tuple[tuple[Source, Reading], ...]
    log: kernel_log.Mark
    energy: Energy
    began: float  # time.monotonic

    @classmethod
    def begin(cls, root: Path) -> Window:
        """Read every source now. Takes some milliseconds."""
        readings = tuple((source, source.read(root)) for source in SOURCES)
        return cls(readings, kernel_log.mark(root / "dev/kmsg"), read_energy(root), time.monotonic())

    def as_json(self) -> dict[str, Any]:
        """For a run that may be interrupted: what was counted when the window began. Energy is left out: it wraps."""
        readings = {source.name: reading_json(reading) for source, reading in self.readings}
        return {"readings": readings, "next_record": self.log.next_record, "log_why_not": self.log.why_not}

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Window:
        """The window that `as_json` told, in another process of the same boot.

        Raises KeyError, TypeError or ValueError on anything else.
        """
        readings = []
        for source in SOURCES:
            readings.append((source, reading_of_json(told["readings"][source.name])))
        energy = Energy({}, {}, "the run was interrupted: its energy is not known")
        mark = kernel_log.Mark(int(told["next_record"]), str(told["log_why_not"]))
        return cls(tuple(readings), mark, energy, time.monotonic())

    def end(self, root: Path) -> list[Finding]:
        """What changed since `begin`, one finding a signal that moved, and one a source that did not."""
        found = [finding for source, before in self.readings for finding in _judged(source, before, source.read(root))]
        logged = _logged(kernel_log.since(self.log, root / "dev/kmsg"), root, readable=not self.log.why_not)
        return [*found, *logged, _used(self.energy, read_energy(root), time.monotonic() - self.began)]


def _judged(source: Source, before: Reading, after: Reading) -> Iterator[Finding]:
    quiet = 0
    for change in changes(source.name, before, after):
        if change.amount is None:
            # A source that is not there cannot tell; one that lost or reset a counter in the window should have.
            outcome = Outcome.UNKNOWN if change.lost else Outcome.UNAVAILABLE
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


def _used(before: Energy, after: Energy, seconds: float) -> Finding:
    """Joules of the window; unavailable where there is no counter, or where it may have wrapped more than once."""
    used = joules(before, after)
    why = before.why_not or after.why_not or "a package appeared or vanished within the window"
    surely = min(before.ranges.values(), default=0) * 1e-6 / MOST_WATTS
    if used is not None and seconds > surely:
        used, why = None, f"{seconds:.0f} s: beyond {surely:.0f} s the counter may have wrapped more than once"
    if used is None:
        return Finding(check="energy", entity="host", outcome=Outcome.UNAVAILABLE, evidence=why)
    return Finding(
        check="energy",
        entity="host",
        outcome=Outcome.OK,
        signal=used,
        evidence=f"{used:.1f} J in {seconds:.1f} s",
    )


def _logged(found: list[KernelEvent] | str, root: Path, *, readable: bool) -> Iterator[Finding]:
    if isinstance(found, str):
        # What may not be read cannot tell; what was read before and is lost now should have told.
        outcome = Outcome.UNKNOWN if readable else Outcome.UNAVAILABLE
        yield Finding(check="kernel_log", entity="host", outcome=outcome, evidence=found)
        return
    limit = Threshold(value=0.0, unit="events", source="any in the window")
    if not found:
        yield Finding(check="kernel_log", entity="host", outcome=Outcome.OK, signal=0.0, threshold=limit)
    for event in found:
        yield bad(f"kernel_log.{event.kind}", placed(event.entity, root), event.text[:400], signal=1.0, threshold=limit)


Begin = Callable[[Path], Window]
