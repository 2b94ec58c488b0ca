"""The two tables at the end of a run. Pure: records in, what rich renders out; prints nothing, judges nothing."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genqual.results.cells import Cell, cells, failed
from genqual.results.display import SUMMARY, Shown, number
from genqual.results.parts import Workload
from genqual.results.record import Record
from genqual.results.text import clean, spread

Key = TypeVar("Key", str, tuple[str, ...])

_STYLES = {
    "PASS": "green",
    "IMPROVED": "green",
    "FAIL": "bold red",
    "REGRESSED": "bold red",
    "ACCURACY": "bold red",
    "ERROR": "red",
    "TIMEOUT": "red",
    "OOM": "magenta",
}
_STATUS = {"accuracy_fail": "ACCURACY", "unsupported": "UNSUPP."}
# Worst first: what a person must see before anything else.
_VERDICTS = ("regressed", "inconclusive", "no_baseline", "pass", "improved")

_CASE, _METRIC, _VERDICT, _CELL = 24, 12, 14, 10  # columns of a terminal, padding included


def summary(records: Sequence[Record], width: int = 100) -> RenderableType:
    """Both tables, each only when there is something in it; `width` is the terminal's, in columns."""
    parts = [conformance_table(records), performance_table(records, width)]
    return Group(*(part for part in parts if part is not None))


def conformance_table(records: Iterable[Record]) -> RenderableType | None:
    """Cases down, a row a property: nrms, nrms / limit, flips, verdict. None when nothing was judged."""
    found = cells(records, "judgement")
    if not found:
        return None
    table = _table("Is it right?", _classes(found))
    table.add_column("case", overflow="fold", min_width=16)
    table.add_column("property", overflow="fold")
    for name in ("nrms", "of limit", "flips"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    many = len({cell.last.system.class_id for cell in found}) > 1
    for case, group in _grouped(found, lambda cell: _case(cell, many)):
        properties = _grouped(group, _property)
        for label, (name, same) in zip(spread(case, len(properties)), properties, strict=True):
            worst = max(same, key=_severity)
            shown = [label, name if len(same) == 1 else f"{name} x{len(same)}", *_numbers(worst)]
            table.add_row(*map(Text, shown), _styled(_conformance_verdict(worst)))
        table.add_section()
    return table


def _property(cell: Cell) -> str:
    """What was judged; the lane too, where the case's own dtype does not tell it."""
    judged = cell.last.judgement
    if judged is None or judged.lane in ("declared", cell.last.precision.dtype):
        return judged.property if judged else ""
    return clean(f"{judged.property} ({judged.lane})")


def _share(cell: Cell) -> float | None:
    judged = cell.last.judgement
    return judged.nrms / judged.limit if judged and judged.nrms is not None and judged.limit else None


def _numbers(cell: Cell) -> list[str]:
    judged, share = cell.last.judgement, _share(cell)
    return [
        "-" if judged is None or judged.nrms is None else f"{judged.nrms:.1e}",
        "-" if share is None else f"{share:.2f}",
        "-" if judged is None or judged.flips is None else str(judged.flips),
    ]


def _severity(cell: Cell) -> tuple[int, float]:
    """Of several verdicts on one property the worst is shown: wrong, then not judged, then nearest to its limit."""
    word = _conformance_verdict(cell)
    return (2 if failed(cell.last) else 0 if word == "PASS" else 1, _share(cell) or 0.0)


def performance_table(records: Iterable[Record], width: int = 100) -> RenderableType | None:
    """Cases down, a row a metric; workloads (batch x input) across; None when nothing was measured.

    A cell without a number says how it ended: OOM, TIMEOUT. More workloads than `width` has room for go into further
    tables below.
    """
    found = cells(records, "measurement")
    if not found:
        return None
    workloads = sorted({cell.last.workload for cell in found}, key=_size)
    room = max(1, (width - _CASE - _METRIC - _VERDICT) // _CELL)
    parts = [workloads[start : start + room] for start in range(0, len(workloads), room)]
    return Group(*(_performance_part(found, part) for part in parts))


def _performance_part(found: Sequence[Cell], workloads: Sequence[Workload]) -> Table:
    tokens = {workload.new_tokens for workload in workloads}
    same = f"{next(iter(tokens))} new tokens" if len(tokens) == 1 and None not in tokens else ""
    table = _table("Is it fast enough?", ", ".join(filter(None, (_classes(found), same))))
    table.add_column("case", overflow="fold", min_width=16)
    table.add_column("metric", no_wrap=True)
    for workload in workloads:
        table.add_column(_heading(workload, short=bool(same)), justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    many = len({cell.last.system.class_id for cell in found}) > 1
    here = [cell for cell in found if cell.last.workload in workloads]
    for case, group in _grouped(here, lambda cell: _case(cell, many)):
        at = {cell.last.workload: cell for cell in group}
        rows = [how for how in SUMMARY if any(_number(cell, how) for cell in group)] or [Shown("", "outcome")]
        for label, how in zip(spread(case, len(rows)), rows, strict=True):
            shown = [_cell(at.get(workload), how) for workload in workloads]
            table.add_row(Text(label), Text(how.title), *shown, _gate_verdict(group, how))
        table.add_section()
    return table


def _cell(cell: Cell | None, how: Shown) -> Text:
    """A number, or how the measurement ended, or a dash where it was not asked for or has no such metric."""
    if cell is None:
        return Text("-")
    if cell.status == "ok":
        return Text(_number(cell, how) or "-")
    return _styled(_STATUS.get(cell.status, cell.status.upper()))


def _number(cell: Cell, how: Shown) -> str:
    """The median over the attempts."""
    values = [m.value for record in cell.records for m in record.metrics if m.name == how.name and m.value is not None]
    return number(statistics.median(values) * how.scale) if values else ""


def _gate_verdict(group: Iterable[Cell], how: Shown) -> Text:
    """The gate's verdicts on this metric over the workloads: one word where they agree, else counts, worst first."""
    gates = [m.gate for cell in group for r in cell.records for m in r.metrics if m.name == how.name]
    counts = Counter(gate.verdict for gate in gates if gate is not None)
    words = sorted(counts, key=lambda verdict: _VERDICTS.index(verdict) if verdict in _VERDICTS else -1)
    if len(words) == 1:
        return _styled(words[0].upper().replace("_", " "))
    return Text(", ".join(f"{counts[word]} {word.upper().replace('_', ' ')}" for word in words))


def _conformance_verdict(cell: Cell) -> str:
    judged, status = cell.last.judgement, cell.last.outcome.status
    if judged is None or status not in ("ok", "accuracy_fail"):
        return _STATUS.get(status, status.upper())
    return judged.verdict.upper().replace("_", " ")


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def _case(cell: Cell, with_class: bool) -> tuple[str, ...]:
    """The lines that name a case: what ran, how, and where when there is more than one place."""
    record = cell.last
    lines = [f"{record.model.name} {record.precision.dtype}", record.engine.label]
    return tuple(clean(line) for line in [*lines, *([record.system.class_id] if with_class else [])])


def _grouped(found: Iterable[Cell], by: Callable[[Cell], Key]) -> list[tuple[Key, list[Cell]]]:
    groups: dict[Key, list[Cell]] = defaultdict(list)
    for cell in found:
        groups[by(cell)].append(cell)
    return sorted(groups.items(), key=lambda item: item[0])


def _heading(workload: Workload, *, short: bool) -> str:
    """`b4 i128` over its column, with the new tokens below unless the title says them."""
    if workload.batch is None or workload.input_length is None:
        return workload.label
    head = f"b{workload.batch} i{workload.input_length}"
    return head if short or workload.new_tokens is None else f"{head}\nn{workload.new_tokens}"


def _size(workload: Workload) -> tuple[int, int, int, str]:
    return workload.batch or 0, workload.input_length or 0, workload.new_tokens or 0, workload.label


def _classes(found: Iterable[Cell]) -> str:
    """The hardware class, when there is one; else it stands in each case."""
    names = {cell.last.system.class_id for cell in found}
    return clean(next(iter(names))) if len(names) == 1 else ""


def _table(title: str, where: str) -> Table:
    full = f"{title}  {where}".rstrip()
    return Table(title=full, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
