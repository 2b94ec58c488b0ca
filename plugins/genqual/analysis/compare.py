"""Compare two sets of records row by row, and refuse what cannot be believed. Pure; nothing is read or printed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genqual.analysis.accuracy import Accuracy
from genqual.analysis.cells import Cell, cells, value
from genqual.analysis.compare_reasons import COMMON, Identity, closest, differences, no_number, refusal, unjudged
from genqual.analysis.interval import ratio_interval
from genqual.records.metric import Better, Metric
from genqual.records.record import Record
from genqual.storage.sources import load as load


@dataclass(frozen=True, slots=True)
class ComparedMetric:
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
class Efficiency:
    """MBU and MFU of a row that has no counterpart: how well it used its own hardware, no speed of anything."""

    what: str
    mbu: float | None
    mfu: float | None


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
    rows: tuple[ComparedMetric, ...]
    only_a: tuple[Unpaired, ...]
    only_b: tuple[Unpaired, ...]
    efficiency: tuple[tuple[Efficiency, ...], ...] = ((), ())
    """Of A and of B, where both have some: across workloads nothing else may stand side by side."""


def compare(a: Sequence[Record], b: Sequence[Record], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Pair the measurements of `a` and `b` that share model, dtype, workload and metric definition.

    Of each configuration the newest run counts, its attempts together. Within a workload the same engine is compared
    with itself; one engine left over on each side is compared across engines, and the row says so.
    """
    left, right = _by_common(cells(a, "measurement")), _by_common(cells(b, "measurement"))
    wrong_a, wrong_b = Accuracy(a), Accuracy(b)
    rows: list[ComparedMetric] = []
    alone: tuple[list[tuple[Cell, list[Cell]]], list[tuple[Cell, list[Cell]]]] = ([], [])
    for key in {**left, **right}:
        ours, theirs = list(left.get(key, ())), list(right.get(key, ()))
        for one, other in _paired(ours, theirs):
            rows += _rows(one, other, wrong_a, wrong_b)
        alone[0].extend((cell, theirs) for cell in ours)
        alone[1].extend((cell, ours) for cell in theirs)
    every = [cell for some in left.values() for cell in some], [cell for some in right.values() for cell in some]
    only_a, only_b = (
        tuple(sorted((_unpaired(cell, names[1 - i], same, every[1 - i]) for cell, same in side), key=lambda u: u.what))
        for i, side in enumerate(alone)
    )
    efficient = tuple(tuple(_efficiencies(cell for cell, _ in side)) for side in alone)
    return Comparison(
        _side(names[0], a),
        _side(names[1], b),
        tuple(sorted(rows, key=_place)),
        only_a,
        only_b,
        efficiency=efficient if all(efficient) else ((), ()),
    )


def _by_common(found: Iterable[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        groups[cell.key_of(*COMMON)].append(cell)
    return groups


def _paired(ours: list[Cell], theirs: list[Cell]) -> list[tuple[Cell, Cell]]:
    """Take out of both lists what belongs together: the most alike first, and at last the only ones left."""
    pairs = []
    for alike in (_same, _engine, _shape, _nothing):
        for cell in list(ours):
            key = alike(cell)
            mine = [other for other in ours if alike(other) == key]
            match = [other for other in theirs if alike(other) == key]
            if len(mine) == len(match) == 1:
                pairs.append((cell, match[0]))
                ours.remove(cell)
                theirs.remove(match[0])
    return pairs


def _same(cell: Cell) -> object:
    return cell.key_of("hardware", "engine")


def _engine(cell: Cell) -> object:
    return cell.key_of("engine")


def _shape(cell: Cell) -> object:
    """The same engine over as many ranks: its options may be unlike."""
    return cell.last.engine.name, cell.last.engine.ranks, tuple(sorted(cell.last.engine.parallelism.items()))


def _nothing(_: Cell) -> object:
    return ()


def _rows(one: Cell, other: Cell, wrong_a: Accuracy, wrong_b: Accuracy) -> Iterable[ComparedMetric]:
    ours, theirs = one.metrics(), other.metrics()
    refused = refusal(one, wrong_a, "A") or refusal(other, wrong_b, "B")
    notes = (*differences(one.last, other.last), *unjudged(one.last, wrong_a, other.last, wrong_b))
    identities: dict[Identity, list[Metric]] = {**ours, **theirs} or {("outcome", "1", "", ""): []}
    for identity in identities:
        mine, its = ours.get(identity, []), theirs.get(identity, [])
        better: Better = next((metric.better for metric in (*mine, *its)), "lower")
        a, b = (value(mine) if mine else None), (value(its) if its else None)
        over, under = (mine, its) if better == "lower" else (its, mine)
        top, bottom = (a, b) if better == "lower" else (b, a)
        sound = refused is None and top is not None and bottom is not None and top > 0 and bottom > 0
        yield ComparedMetric(
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
            refused=refused or (None if sound else no_number(identity, a, b, ours, theirs)),
            notes=notes,
        )


def _unpaired(cell: Cell, where: str, same: Sequence[Cell], others: Sequence[Cell]) -> Unpaired:
    """`same` are the other side's rows of this workload that are left, `others` all that it has."""
    what = _named(cell)
    if not same:
        fields = closest(cell, others)
        nearest = f"; the closest row there differs in {fields}" if fields else ""
        return Unpaired(what, f"{where} has no such model, dtype, workload and definition{nearest}")
    there = ", ".join(sorted({f"{other.last.engine.label} on {other.last.system.class_id}" for other in same}))
    return Unpaired(what, f"{where} has it in several ways ({there}): choose one with #engine=NAME&class=NAME")


def _named(cell: Cell) -> str:
    record = cell.last
    return (
        f"{record.model.name} {record.precision.dtype} {record.engine.label} {record.workload.label}"
        f" ({record.system.class_id})"
    )


def _efficiencies(alone: Iterable[Cell]) -> Iterable[Efficiency]:
    """Of rows that are right and have one of the two, the best 20 by MBU."""
    found = []
    for cell in alone:
        values = {identity[0]: value(metrics) for identity, metrics in cell.metrics().items()}
        if cell.status == "ok" and {"mbu", "mfu"} & set(values):
            found.append(Efficiency(_named(cell), values.get("mbu"), values.get("mfu")))
    return sorted(found, key=lambda one: (-(one.mbu or 0.0), one.what))[:20]


def _place(row: ComparedMetric) -> tuple[str, ...]:
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
