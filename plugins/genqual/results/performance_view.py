"""The performance table at the end of a run. Pure: records in, what rich renders out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genqual.results.cells import Cell, cells
from genqual.results.display import SUMMARY, Shown, number
from genqual.results.parts import Workload
from genqual.results.record import Record
from genqual.results.tables import by_case, classes, said, styled, table
from genqual.results.text import spread

_STATUS: Final = {"accuracy_fail": "ACCURACY", "unsupported": "UNSUPP."}
# Worst first: what a person must see before anything else.
_VERDICTS: Final = ("regressed", "inconclusive", "no_baseline", "pass", "improved")

_CASE, _METRIC, _VERDICT, _CELL = 24, 12, 14, 10  # columns of a terminal, padding included


def performance_table(records: Iterable[Record], width: int = 100) -> RenderableType | None:
    """Cases down, a row a metric; workloads (batch x input) across; None when nothing was measured.

    A cell without a number says how it ended: OOM, TIMEOUT. A case that ended before any workload was asked of it
    (UNSUPPORTED) says so as its verdict. More workloads than `width` has room for go into further tables below.
    """
    found = cells(records, "measurement")
    workloads = sorted({cell.last.workload for cell in found} - {Workload()}, key=_size)
    room = max(1, (width - _CASE - _METRIC - _VERDICT) // _CELL)
    parts = [workloads[start : start + room] for start in range(0, len(workloads), room)]
    return Group(*(_performance_part(found, part) for part in parts)) if parts else None


def _performance_part(found: Sequence[Cell], workloads: Sequence[Workload]) -> Table:
    tokens = {workload.new_tokens for workload in workloads}
    same = f"{next(iter(tokens))} new tokens" if len(tokens) == 1 and None not in tokens else ""
    shown_table = table("Is it fast enough?", ", ".join(filter(None, (classes(found), same))))
    shown_table.add_column("case", overflow="fold", min_width=16)
    shown_table.add_column("metric", no_wrap=True)
    for workload in workloads:
        shown_table.add_column(_heading(workload, short=bool(same)), justify="right", no_wrap=True)
    shown_table.add_column("verdict", overflow="fold")
    here = [cell for cell in found if cell.last.workload in (*workloads, Workload())]
    for case, group in by_case(here):
        at = {cell.last.workload: cell for cell in group}
        rows = [how for how in SUMMARY if any(_number(cell, how) for cell in group)] or [Shown("", "outcome")]
        for label, how in zip(spread(case, len(rows)), rows, strict=True):
            shown = [_cell(at.get(workload), how) for workload in workloads]
            whole = at.get(Workload())
            verdict = styled(whole.status.upper()) if whole and len(at) == 1 else _gate_verdict(group, how)
            shown_table.add_row(Text(label), Text(how.title), *shown, verdict)
        shown_table.add_section()
    return shown_table


def _cell(cell: Cell | None, how: Shown) -> Text:
    """A number, or how the measurement ended, or a dash where it was not asked for or has no such metric."""
    if cell is None:
        return Text("-")
    if cell.status == "ok":
        return Text(_number(cell, how) or "-")
    return styled(_STATUS.get(cell.status, cell.status.upper()))


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
        return styled(said(words[0]))
    return Text(", ".join(f"{counts[word]} {said(word)}" for word in words))


def _heading(workload: Workload, *, short: bool) -> str:
    """`b4 i128` over its column, with the new tokens below unless the title says them."""
    if workload.batch is None or workload.input_length is None:
        return workload.label
    head = f"b{workload.batch} i{workload.input_length}"
    return head if short or workload.new_tokens is None else f"{head}\nn{workload.new_tokens}"


def _size(workload: Workload) -> tuple[int, int, int, str]:
    return workload.batch or 0, workload.input_length or 0, workload.new_tokens or 0, workload.label
