"""Gather records into the cells of a table: one configuration on one workload, its newest run. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from genqual.results.metric import Metric
from genqual.results.parts import Status
from genqual.results.record import Record, key_over
from genqual.spec import Json

FAILED = frozenset({"fail", "failed"})


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
    """The records of this kind by content key, only the newest run of each, in the order they were first made."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.created, record.attempt, record.id)):
        if record.kind == kind:
            groups[record.key].append(record)
    return [Cell(tuple(r for r in group if r.run == group[-1].run)) for group in groups.values()]


def waiver_of(record: Record, metric: str | None = None) -> str | None:
    """The known failure that excuses this record's verdict, or its verdict on `metric`: issue and last day; or None."""
    return record.labels.get("waived" if metric is None else f"waived {metric}")


def failed(record: Record) -> bool:
    """Whether this record says that the output was wrong."""
    return record.outcome.status == "accuracy_fail" or (
        record.judgement is not None and record.judgement.verdict in FAILED
    )
