"""Why two rows may not be compared, or what to know when they are. Pure: records in, words out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from genqual.analysis.accuracy import Accuracy
from genqual.analysis.cells import Cell
from genqual.cases import PROCESSORS, Json
from genqual.records.metric import Metric
from genqual.records.record import Record

COMMON: Final = ("model", "dtype", "workload", "definition")
"""What two rows must share to be compared at all: everything but hardware and engine."""

Identity = tuple[str, str, str, str]

_IDENTITY: Final = ("name", "unit", "statistic", "definition")


def no_number(
    identity: Identity,
    a: float | None,
    b: float | None,
    ours: Mapping[Identity, list[Metric]],
    theirs: Mapping[Identity, list[Metric]],
) -> str:
    """Why there is no ratio of this metric: which fields of its identity differ, or who has no number."""
    if a is not None and b is not None:
        return f"{identity[0]} is not positive on both sides"
    mine = identity if a is not None else next((one for one in ours if one[0] == identity[0]), None)
    its = identity if b is not None else next((one for one in theirs if one[0] == identity[0]), None)
    if mine is not None and its is not None:
        fields = [f"{name} {x!r} against {y!r}" for name, x, y in zip(_IDENTITY, mine, its, strict=True) if x != y]
        return f"{identity[0]} is not the same metric: {', '.join(fields)}"
    side = "both sides" if a is None and b is None else "A" if a is None else "B"
    return f"{identity[0]} was not measured on {side}"


def closest(cell: Cell, others: Sequence[Cell]) -> str:
    """In which fields the most similar of `others` differs; empty where none has this model."""
    alike = [other for other in others if other.last.model.name == cell.last.model.name][:LOOKED_AT]
    fields = min((differing(cell.last, other.last) for other in alike), key=len, default=())
    return "; ".join(fields)


LOOKED_AT: Final = 50  # candidates for the most similar row


def refusal(cell: Cell, accuracy: Accuracy, side: str) -> str | None:
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


def unjudged(one: Record, wrong_a: Accuracy, other: Record, wrong_b: Accuracy) -> Iterable[str]:
    """What is not known to be right: numbers from elsewhere, and measurements without a verdict beside them."""
    sides = (("A", one, wrong_a), ("B", other, wrong_b))
    for name, record, _ in sides:
        if record.provenance.kind != "measured":
            yield f"{name} is {record.provenance.kind}: {record.provenance.source}"
    yield from (f"{name}: {known}" for name, record, accuracy in sides if (known := accuracy.excused(record)))
    unknown = [
        name for name, record, accuracy in sides if record.provenance.kind == "measured" and not accuracy.known(record)
    ]
    if unknown:
        yield f"accuracy was not judged among the records of {' and '.join(unknown)}"


def differing(one: Record, other: Record, facets: Sequence[str] = COMMON) -> tuple[str, ...]:
    """The fields of these facets in which two records differ: `workload.input_length 32 against 128`."""
    mine, its = ({name: record.facets()[name] for name in facets} for record in (one, other))
    flat, theirs = dict(_flat(mine)), dict(_flat(its))
    names = sorted(name for name in {**flat, **theirs} if flat.get(name) != theirs.get(name))
    return tuple(f"{name} {_word(flat.get(name))} against {_word(theirs.get(name))}" for name in names)


def _flat(value: Json, path: str = "") -> Iterable[tuple[str, Json]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f"{path}.{name}" if path else name)
    elif value is not None:
        yield path, value


def _word(value: Json) -> str:
    text = "unknown" if value is None else str(value)
    if re.fullmatch("[0-9a-f]{64}", text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


def differences(one: Record, other: Record) -> Iterable[str]:
    """What is unlike between the two beyond the class of hardware, which is what is compared."""
    if one.engine.name != other.engine.name:
        yield f"unlike: engine {one.engine.name} against {other.engine.name}"
    else:
        mine, its = ({**record.engine.parallelism, **record.engine.options} for record in (one, other))
        for name in sorted(name for name in {**mine, **its} if mine.get(name) != its.get(name)):
            yield f"unlike: {name} {mine.get(name)} against {its.get(name)}"
    if one.engine.ranks != other.engine.ranks:
        yield f"unlike: {one.engine.ranks} ranks against {other.engine.ranks}"
    elif one.system.used != other.system.used and _places(one) == _places(other):
        yield f"unlike: {one.system.used} places used against {other.system.used}"


def _places(record: Record) -> str:
    """What a place is: a core or a card; sixteen cores are not sixteen cards."""
    return "core" if record.system.device in PROCESSORS else "card"
