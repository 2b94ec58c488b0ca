"""Gather records into the cells of a table: one configuration on one workload, its newest run. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from genqual.cases import Json
from genqual.records.fields import Status
from genqual.records.metric import Metric
from genqual.records.record import Record, key_over

FAILED = frozenset({"fail", "failed"})
_ENDED = frozenset({"error", "timeout", "oom"})
_SHAPE = frozenset({"steps", "batch"})
_TOLD = frozenset({"graphs", "kv_cache", "offload"})
"""Fields of an engine that are read from its inspection, see `subject`."""


@dataclass(frozen=True)
class Cell:
    """The attempts of one run that share a content key, oldest first; never empty."""

    records: tuple[Record, ...]

    @property
    def last(self) -> Record:
        return self.records[-1]

    @cached_property
    def facets(self) -> dict[str, Json]:
        """See `Record.facets`; the same for every record here."""
        return self.last.facets()

    @cached_property
    def _keys(self) -> dict[tuple[str, ...], str]:
        return {}

    def key_of(self, *facets: str) -> str:
        """`Record.key_of` of every record here, hashed once."""
        if facets not in self._keys:
            self._keys[facets] = key_over(self.facets, facets)
        return self._keys[facets]

    @property
    def status(self) -> Status:
        """accuracy_fail if any attempt says so; else ok if any attempt was; else how the last one ended."""
        seen = [record.outcome.status for record in self.records]
        worst: tuple[Status, ...] = ("accuracy_fail", "ok")
        return next((status for status in worst if status in seen), seen[-1])

    def metrics(self) -> dict[tuple[str, str, str, str], list[Metric]]:
        """Metrics by identity, one entry an attempt that has a value."""
        found: dict[tuple[str, str, str, str], list[Metric]] = defaultdict(list)
        for record in self.records:
            for metric in record.metrics:
                if metric.value is not None:
                    found[metric.identity].append(metric)
        return dict(found)


def value(attempts: Iterable[Metric]) -> float:
    """The median over attempts: a launch is the unit, its steps are not independent."""
    return statistics.median(metric.value for metric in attempts if metric.value is not None)


def cells(records: Iterable[Record], kind: str) -> list[Cell]:
    """The records of this kind by content key, only the newest run of each, in the order they were first made.

    Ranks that were lost, or never loaded, cannot say which cache and graphs they run, so the record of their failure
    has another key. It is the newest word on every configuration that is the same in all that was asked for.
    A verdict is replaced by a later run's on the same property over other steps and rows, if that failed or judged as
    much; and by a later test of the property that ended before its verdict, by an error or with a rank that died.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=_made):
        if record.kind == kind:
            groups[record.key].append(record)
    found = [Cell(tuple(r for r in group if r.run == group[-1].run)) for group in groups.values()]
    return _newest_verdicts(found) if kind == "judgement" else _without_superseded(found)


def _newest_verdicts(found: list[Cell]) -> list[Cell]:
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        alike[_judged(cell)].append(cell)
    gone: set[int] = set()
    for group in alike.values():
        for old in group if len(group) > 1 else ():
            later = (one for one in group if one.last.run != old.last.run and _made(one.last) > _made(old.last))
            if any(_replaces(new.last, old.last) for new in later):
                gone.add(id(old))
    return _without_unjudged([cell for cell in found if id(cell) not in gone])


def ended_without_verdict(record: Record) -> bool:
    """Whether it is of a property whose test ended before its verdict; such a record's verdict is how it ended."""
    return record.judgement is not None and record.outcome.status in _ENDED


def _without_unjudged(found: list[Cell]) -> list[Cell]:
    """Of a property's verdicts and tests that ended without one, what is newest; in one run a verdict counts.

    A failed verdict stands until another verdict takes its place: what was not judged again is not right again.
    """
    ended = [cell for cell in found if ended_without_verdict(cell.last)]
    if not ended:
        return found
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        alike[_property(cell)].append(cell)
    gone: set[int] = set()
    for failure in ended:
        for other in alike[_property(failure)]:
            if other is failure or failed(other.last):
                continue
            later = _made(other.last) > _made(failure.last)
            stays = later or (other.last.run == failure.last.run and not ended_without_verdict(other.last))
            gone.add(id(failure if stays else other))
    return [cell for cell in found if id(cell) not in gone]


def _property(cell: Cell) -> str:
    """The content key without what a test that ended early cannot say: what ran, how much and by what it judged."""
    facets, judged = cell.facets, cell.last.judgement
    asked, engine = facets["workload"], facets["engine"]
    known: dict[str, Json] = {
        **facets,
        "workload": {name: value for name, value in _dict(asked).items() if name not in _SHAPE},
        "engine": {name: value for name, value in _dict(engine).items() if name not in _TOLD},
        "definition": {"protocol": cell.last.protocol, "property": judged.property if judged else None},
    }
    return key_over(known, list(known))


def _dict(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _replaces(new: Record, old: Record) -> bool:
    """Whether a later verdict says at least as much: it failed, or it passed on as many choices."""
    if failed(new):
        return True
    if new.judgement is None or old.judgement is None or new.outcome.status != "ok":
        return False
    return (new.judgement.judged or 0) >= (old.judgement.judged or 0)


def _judged(cell: Cell) -> str:
    """The content key without how many steps and rows were judged."""
    facets = cell.facets
    asked = facets["workload"]
    known = {name: value for name, value in asked.items() if name not in _SHAPE} if isinstance(asked, dict) else asked
    return key_over({**facets, "workload": known}, list(facets))


def _without_superseded(found: list[Cell]) -> list[Cell]:
    """Leave out what a later cell replaces, where one of the two does not know what would have run."""
    silent = [cell for cell in found if _is_silent(cell.last)]
    if not silent:
        return found
    alike: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        alike[_asked(cell)].append(cell)
    gone: set[int] = set()
    for failure in silent:
        for other in alike[_asked(failure)]:
            if other is failure or _is_silent(other.last):
                continue
            # A run that also succeeded has succeeded: its attempts count together.
            stays = other.last.run == failure.last.run or _made(other.last) > _made(failure.last)
            gone.add(id(failure if stays else other))
    return [cell for cell in found if id(cell) not in gone]


def _made(record: Record) -> tuple[str, int, str]:
    return record.created, record.attempt, record.id


def _is_silent(record: Record) -> bool:
    """Whether it is of a measurement that ended without numbers and without a word of what ran."""
    return record.kind == "measurement" and not record.metrics and not record.engine.inspection


def _asked(cell: Cell) -> str:
    """The content key without what only running ranks can say."""
    facets = cell.facets
    engine = facets["engine"]
    known = {name: value for name, value in engine.items() if name not in _TOLD} if isinstance(engine, dict) else engine
    return key_over({**facets, "engine": known}, list(facets))


def waiver_of(record: Record, metric: str | None = None) -> str | None:
    """The known failure that excuses this record's verdict, or its verdict on `metric`: issue and last day; or None."""
    return record.labels.get("waived" if metric is None else f"waived {metric}")


def failed(record: Record) -> bool:
    """Whether this record says that the output was wrong."""
    return record.outcome.status == "accuracy_fail" or (
        record.judgement is not None and record.judgement.verdict in FAILED
    )
