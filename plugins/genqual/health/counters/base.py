"""What every source of counters has in common: a reading, and what two readings say of the window between. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of one source now: (entity, signal) -> count. `why_not` says why this host has none."""

    counts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What one signal of one entity did in a window. `amount` None: it cannot be told, and `note` says why."""

    source: str
    entity: str
    signal: str
    amount: float | None
    note: str = ""


class Source(Protocol):
    """A kind of counters: one file an implementation. Cheap, and reads only; never raises for what is not there."""

    name: str

    def read(self, root: Path) -> Reading:
        """The counters below `root`, which is `/` outside tests."""
        ...


def changes(source: str, before: Reading, after: Reading) -> list[Change]:
    """Each signal's difference; one that vanished, appeared or fell in the window is not told as a number.

    A counter that falls was reset (a driver was loaded again, a card was reset): what it counted before is lost.
    """
    if before.why_not or after.why_not:
        return [Change(source, "host", "", None, after.why_not or before.why_not)]
    found = []
    for key in sorted({*before.counts, *after.counts}):
        then, now = before.counts.get(key), after.counts.get(key)
        if then is None or now is None:
            note = f"{'appeared' if then is None else 'vanished'} within the window"
            found.append(Change(source, *key, None, note))
        elif now < then:
            found.append(Change(source, *key, None, f"fell from {then:g} to {now:g}: it was reset within the window"))
        else:
            found.append(Change(source, *key, now - then))
    return found
