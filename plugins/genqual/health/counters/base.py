"""What every source of counters has in common: a reading, and what two readings say of the window between. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Key = tuple[str, str]
"""An entity and a signal of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of one source now. `why_not` says why this host has none.

    `counts` only rise; one that fell was reset. `levels` are states that come and go (a link narrower than it can be, a
    remapping that is due): a rise is the event, a fall is none. `silent` are signals that this entity does not tell,
    each with the reason. `ages` are the seconds since an entity's counts began at 0, where the kernel says so.
    """

    counts: Mapping[Key, float] = field(default_factory=dict)
    why_not: str = ""
    levels: Mapping[Key, float] = field(default_factory=dict)
    silent: Mapping[Key, str] = field(default_factory=dict)
    ages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What one signal of one entity did in a window. `amount` None: it cannot be told, and `note` says why.

    `lost`: it could be told when the window began, or when it ended, and so hides what happened between.
    """

    source: str
    entity: str
    signal: str
    amount: float | None
    note: str = ""
    lost: bool = False


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
        gone = not before.why_not
        note = f"it could be read when the window began: {after.why_not}" if gone else before.why_not
        return [Change(source, "host", "", None, note, lost=gone)]
    found = []
    for key in sorted({*before.counts, *after.counts}):
        found.append(_counted(source, key, before, after))
    for key in sorted({*before.levels, *after.levels}):
        then, now = before.levels.get(key), after.levels.get(key)
        if then is None or now is None:
            found.append(_moved(source, key, then, after))
        else:
            found.append(Change(source, *key, max(now - then, 0.0)))
    return [*found, *_silent(source, before, after)]


def _counted(source: str, key: Key, before: Reading, after: Reading) -> Change:
    then, now = before.counts.get(key), after.counts.get(key)
    if then is None or now is None:
        return _moved(source, key, then, after)
    if now < then:
        note = f"fell from {then:g} to {now:g}: it was reset within the window"
        return Change(source, *key, None, note, lost=True)
    if after.ages.get(key[0], 0.0) < before.ages.get(key[0], 0.0):
        # It may stand where it stood, and yet have counted since.
        return Change(source, *key, None, f"was reset within the window, and counted {now:g} since", lost=True)
    return Change(source, *key, now - then)


def _moved(source: str, key: Key, then: float | None, after: Reading) -> Change:
    why = f": {after.silent[key]}" if key in after.silent else ""
    note = f"{key[1]} {'appeared' if then is None else 'vanished'} within the window{why}"
    return Change(source, *key, None, note, lost=True)


def _silent(source: str, before: Reading, after: Reading) -> list[Change]:
    """One line an entity for what it could not tell at either end."""
    by_entity: dict[str, list[str]] = {}
    for (entity, signal), why in sorted(after.silent.items()):
        if (entity, signal) in before.silent:
            by_entity.setdefault(entity, []).append(f"{signal}: {why}")
    return [Change(source, entity, "", None, "; ".join(whys)) for entity, whys in by_entity.items()]


def reading_json(reading: Reading) -> dict[str, Any]:
    """For a run that may be interrupted."""
    return {
        "counts": [[*key, count] for key, count in reading.counts.items()],
        "why_not": reading.why_not,
        "levels": [[*key, level] for key, level in reading.levels.items()],
        "silent": [[*key, why] for key, why in reading.silent.items()],
        "ages": dict(reading.ages),
    }


def reading_of_json(told: Mapping[str, Any]) -> Reading:
    """What `reading_json` told. Raises KeyError, TypeError or ValueError on anything else."""
    return Reading(
        {(str(entity), str(signal)): float(count) for entity, signal, count in told["counts"]},
        str(told["why_not"]),
        {(str(entity), str(signal)): float(level) for entity, signal, level in told["levels"]},
        {(str(entity), str(signal)): str(why) for entity, signal, why in told["silent"]},
        {str(entity): float(age) for entity, age in told["ages"].items()},
    )
