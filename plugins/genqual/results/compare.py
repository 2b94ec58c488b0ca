"""Compare two sets of records row by row, and refuse what cannot be believed. Pure; nothing is read or printed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from genqual.results.accuracy import Accuracy
from genqual.results.cells import Cell, cells, value
from genqual.results.interval import ratio_interval
from genqual.results.metric import Better
from genqual.results.record import Record
from genqual.results.sources import load as load

COMMON: Final = ("model", "dtype", "workload", "definition")
"""What two rows must share to be compared at all: everything but hardware and engine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one workload on both sides. `a` and `b` are in `unit`, null where there is no number.

    `speedup` is how many times better B is than A (lower or higher, as `better` says), with its 95 % interval; null
    when `refused` says why it must not be given. `notes` are what a reader must know beside it.
    """

    model: str
    dtype: str
    workload: str
    engines: tuple[str, str]
    metric: str
    unit: str
    better: Better
    a: float | None
    b: float | None
    statuses: tuple[str, str]
    speedup: float | None = None
    interval: tuple[float, float] | None = None
    refused: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A configuration that stands on one side only, and why nothing on the other answers it."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Side:
    """What one side is: the name it was given, its hardware classes, its runs."""

    name: str
    classes: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The rows that both sides share, and what only one of them has."""

    a: Side
    b: Side
    rows: tuple[Row, ...]
    only_a: tuple[Unpaired, ...]
    only_b: tuple[Unpaired, ...]


def compare(a: Sequence[Record], b: Sequence[Record], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Pair the measurements of `a` and `b` that share model, dtype, workload and metric definition.

    Of each configuration the newest run counts, its attempts together. Within a workload the same engine is compared
    with itself; one engine left over on each side is compared across engines, and the row says so.
    """
    left, right = _by_common(cells(a, "measurement")), _by_common(cells(b, "measurement"))
    wrong_a, wrong_b = Accuracy(a), Accuracy(b)
    rows: list[Row] = []
    alone: tuple[list[Unpaired], list[Unpaired]] = ([], [])
    for key in {**left, **right}:
        ours, theirs = list(left.get(key, ())), list(right.get(key, ()))
        for one, other in _paired(ours, theirs):
            rows += _rows(one, other, wrong_a, wrong_b)
        alone[0].extend(_unpaired(cell, names[1], theirs) for cell in ours)
        alone[1].extend(_unpaired(cell, names[0], ours) for cell in theirs)
    only = [tuple(sorted(side, key=lambda item: item.what)) for side in alone]
    return Comparison(_side(names[0], a), _side(names[1], b), tuple(sorted(rows, key=_place)), *only)


def _by_common(found: Iterable[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        groups[cell.last.key_of(*COMMON)].append(cell)
    return groups


def _paired(ours: list[Cell], theirs: list[Cell]) -> list[tuple[Cell, Cell]]:
    """Take out of both lists what belongs together: the same configuration, the same engine, the only ones left."""
    pairs = []
    for facets in (("hardware", "engine"), ("engine",), ()):
        for cell in list(ours):
            key = cell.last.key_of(*facets)
            mine = [other for other in ours if other.last.key_of(*facets) == key]
            match = [other for other in theirs if other.last.key_of(*facets) == key]
            if len(mine) == len(match) == 1:
                pairs.append((cell, match[0]))
                ours.remove(cell)
                theirs.remove(match[0])
    return pairs


def _rows(one: Cell, other: Cell, wrong_a: Accuracy, wrong_b: Accuracy) -> Iterable[Row]:
    ours, theirs = one.metrics(), other.metrics()
    refused = _refusal(one, wrong_a, "A") or _refusal(other, wrong_b, "B")
    notes = (*_differences(one.last, other.last), *_unjudged(one.last, wrong_a, other.last, wrong_b))
    identities = {**ours, **theirs} or {("outcome", "1", "", ""): []}
    for identity in identities:
        mine, its = ours.get(identity, []), theirs.get(identity, [])
        better: Better = next((metric.better for metric in (*mine, *its)), "lower")
        a, b = (value(mine) if mine else None), (value(its) if its else None)
        over, under = (mine, its) if better == "lower" else (its, mine)
        top, bottom = (a, b) if better == "lower" else (b, a)
        sound = refused is None and top is not None and bottom is not None and top > 0 and bottom > 0
        yield Row(
            model=one.last.model.name,
            dtype=one.last.precision.dtype,
            workload=one.last.workload.label,
            engines=(one.last.engine.label, other.last.engine.label),
            metric=identity[0],
            unit=identity[1],
            better=better,
            a=a,
            b=b,
            statuses=(one.status, other.status),
            speedup=top / bottom if sound and top and bottom else None,
            interval=ratio_interval(over, under) if sound else None,
            refused=refused or (None if sound else _no_number(identity, a, b)),
            notes=notes,
        )


def _no_number(identity: Sequence[str], a: float | None, b: float | None) -> str:
    if a is not None and b is not None:
        return f"{identity[0]} is not positive on both sides"
    side = "both sides" if a is None and b is None else "A" if a is None else "B"
    return f"{identity[0]} was not measured on {side}, or is defined otherwise there"


def _refusal(cell: Cell, accuracy: Accuracy, side: str) -> str | None:
    """Why no speedup may be stated from this cell."""
    if any(record.provenance.kind == "simulated" for record in cell.records):
        return f"{side} is simulated"
    for record in cell.records:
        if record.outcome.status == "accuracy_fail":
            return f"{side}: accuracy failed: {record.outcome.message or 'the measured text was wrong'}"
    if fault := accuracy.fault(cell.last):
        return f"{side}: {fault}"
    if cell.status != "ok":
        return f"{side}: {cell.status}: {cell.last.outcome.message}"
    return None


def _unjudged(one: Record, wrong_a: Accuracy, other: Record, wrong_b: Accuracy) -> Iterable[str]:
    """What is not known to be right: numbers from elsewhere, and measurements without a verdict beside them."""
    sides = (("A", one, wrong_a), ("B", other, wrong_b))
    for name, record, _ in sides:
        if record.provenance.kind != "measured":
            yield f"{name} is {record.provenance.kind}: {record.provenance.source}"
    unknown = [
        name for name, record, accuracy in sides if record.provenance.kind == "measured" and not accuracy.known(record)
    ]
    if unknown:
        yield f"accuracy was not judged among the records of {' and '.join(unknown)}"


def _differences(one: Record, other: Record) -> Iterable[str]:
    """What is unlike between the two beyond the class of hardware, which is what is compared."""
    if one.engine.name != other.engine.name:
        yield f"unlike: engine {one.engine.name} against {other.engine.name}"
    else:
        mine, its = ({**record.engine.parallelism, **record.engine.options} for record in (one, other))
        for name in sorted(name for name in {**mine, **its} if mine.get(name) != its.get(name)):
            yield f"unlike: {name} {mine.get(name)} against {its.get(name)}"
    if one.engine.ranks != other.engine.ranks:
        yield f"unlike: {one.engine.ranks} ranks against {other.engine.ranks}"
    elif one.system.device == other.system.device and one.system.used != other.system.used:
        yield f"unlike: {one.system.used} places used against {other.system.used}"


def _unpaired(cell: Cell, where: str, others: Sequence[Cell]) -> Unpaired:
    record = cell.last
    what = f"{record.model.name} {record.precision.dtype} {record.engine.label} {record.workload.label}"
    if not others:
        return Unpaired(
            f"{what} ({record.system.class_id})", f"{where} has no such model, dtype, workload and definition"
        )
    there = ", ".join(sorted({f"{other.last.engine.label} on {other.last.system.class_id}" for other in others}))
    return Unpaired(
        f"{what} ({record.system.class_id})",
        f"{where} has it in several ways ({there}): choose one with #engine=NAME&class=NAME",
    )


def _place(row: Row) -> tuple[str, ...]:
    """Rows of one pair stay together, and pairs stand in an order that does not change from run to run."""
    counts = re.sub(r"\d+", lambda digits: digits[0].zfill(9), row.workload)  # b8 before b16
    return row.model, row.dtype, *row.engines, counts


def _side(name: str, records: Iterable[Record]) -> Side:
    found = list(records)
    return Side(
        name,
        tuple(sorted({record.system.class_id for record in found})),
        tuple(sorted({record.run for record in found})),
    )
