"""The performance table at the end of a run. Pure: records in, what rich renders out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from genqual.analysis.cells import Cell, cells, waiver_of
from genqual.analysis.terminal.display import SUMMARY, Shown, number
from genqual.analysis.terminal.tables import by_case, classes, said, styled, table, titled
from genqual.analysis.terminal.text import clean, spread
from genqual.cases import REPEATED
from genqual.records.fields import Workload
from genqual.records.record import Record

_STATUS: Final = {"accuracy_fail": "WRONG", "unsupported": "UNSUPP"}
# Worst first: what a person must see before anything else.
_VERDICTS: Final = ("regressed", "waived", "inconclusive", "no_baseline", "pass", "improved", "recorded")

# Columns of a terminal: the widest metric, verdict and number ("memory MiB", "INCONCLUSIVE", "TIMEOUT"), and a gap.
_METRIC, _VERDICT, _NUMBER, _GAP = 10, 12, 7, 2


def performance_table(records: Iterable[Record], width: int = 100) -> RenderableType | None:
    """Cases down, a row a metric; workloads (batch x input) across; None when nothing was measured.

    A cell without a number says how it ended: OOM, TIMEOUT. A case that ended before any workload was asked of it
    (UNSUPPORTED) says so as its verdict. More workloads than `width` has room for go into further tables below.
    """
    found = cells(records, "measurement")
    workloads = sorted({cell.last.workload.asked for cell in found} - {Workload()}, key=_size)
    if not workloads:
        return None
    tokens = {workload.new_tokens for workload in workloads}
    same = f"{next(iter(tokens))} new tokens" if len(tokens) == 1 and None not in tokens else ""
    heads = {workload: _heading(workload, short=bool(same)) for workload in workloads}
    parts = [_part(found, {workload: heads[workload] for workload in some}) for some in _packed(found, heads, width)]
    return titled("Is it fast enough?", ", ".join(filter(None, (classes(found), same))), parts)


def _packed(found: Sequence[Cell], heads: Mapping[Workload, str], width: int) -> list[list[Workload]]:
    """The workloads in their order, as many in each part as a terminal of `width` columns shows unbroken."""
    case = max(len(line) for lines, _ in by_case(found) for line in lines)
    room = width - case - _GAP - _METRIC - _GAP - _VERDICT
    parts: list[list[Workload]] = [[]]
    left = room
    for workload, head in heads.items():
        wanted = max(_NUMBER, *(len(line) for line in head.splitlines())) + _GAP
        if parts[-1] and wanted > left:
            parts.append([])
            left = room
        parts[-1].append(workload)
        left -= wanted
    return parts


def _part(found: Sequence[Cell], workloads: Mapping[Workload, str]) -> Table:
    shown = table()
    shown.add_column("case", overflow="fold", min_width=16)
    shown.add_column("metric", no_wrap=True)
    for head in workloads.values():
        shown.add_column(Text(head), justify="right", no_wrap=True)
    shown.add_column("verdict", overflow="fold")
    here = [cell for cell in found if cell.last.workload.asked in (*workloads, Workload())]
    for case, group in by_case(here):
        at = {cell.last.workload.asked: cell for cell in group}
        rows = [how for how in SUMMARY if any(_number(cell, how) for cell in group)] or [Shown("", "outcome")]
        for label, how in zip(spread(case, len(rows)), rows, strict=True):
            numbers = [_cell(at.get(workload), how) for workload in workloads]
            whole = at.get(Workload())
            verdict = styled(whole.status.upper()) if whole and len(at) == 1 else _gate_verdict(group, how)
            shown.add_row(Text(label), Text(how.title), *numbers, verdict)
        shown.add_section()
    return shown


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
    gated = [(r, m.gate) for cell in group for r in cell.records for m in r.metrics if m.name == how.name and m.gate]
    counts = Counter(gate.verdict if waiver_of(record, how.name) is None else "waived" for record, gate in gated)
    words = sorted(counts, key=lambda verdict: _VERDICTS.index(verdict) if verdict in _VERDICTS else -1)
    if len(words) == 1:
        return styled(said(words[0]))
    return Text(", ".join(f"{counts[word]} {said(word)}" for word in words))


def _heading(workload: Workload, *, short: bool) -> str:
    """`b4 i128` over its column, with the new tokens below unless the title says them."""
    if workload.batch is None or workload.input_length is None:
        return clean(workload.label)
    kind = f"{workload.prompts}\n" if workload.prompts == REPEATED else ""
    head = f"{kind}b{workload.batch} i{workload.input_length}"
    return head if short or workload.new_tokens is None else f"{head}\nn{workload.new_tokens}"


def _size(workload: Workload) -> tuple[int, int, int, str]:
    return workload.batch or 0, workload.input_length or 0, workload.new_tokens or 0, workload.label
