"""The performance table as the BLOOM posts print it: engine and precision down, batch across. Pure: records in."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from genqual.analysis.cells import Cell, cells
from genqual.analysis.terminal.display import number
from genqual.analysis.terminal.tables import classes, styled, table, titled
from genqual.analysis.terminal.text import clean
from genqual.cases import REPEATED
from genqual.records.fields import Workload
from genqual.records.record import Record

METRIC: Final = "msec_per_token"
_ENDED: Final = {"accuracy_fail": "WRONG", "skipped": "/"}


def post_table(records: Iterable[Record]) -> RenderableType | None:
    """Milliseconds a token, a table for each model and lengths; None without two rows and two batches to compare.

    A cell that has no number says how it ended: oom; a combination that upstream cannot run says so in its row.
    """
    found = cells(records, "measurement")
    groups: dict[tuple[str, int, int], list[Cell]] = defaultdict(list)
    for cell in found:
        asked = cell.last.workload
        if asked.prompts == REPEATED:
            continue  # a prefix cache's hits: the posts' tables have none
        if asked.batch is not None and asked.input_length is not None and asked.new_tokens is not None:
            groups[clean(cell.last.model.name), asked.input_length, asked.new_tokens].append(cell)
    refused = [cell for cell in found if cell.last.workload == Workload() and cell.status == "unsupported"]
    drawn = []
    for (model, length, new), group in sorted(groups.items()):
        batches = sorted({batch for cell in group if (batch := cell.last.workload.batch) is not None})
        rows: dict[str, dict[int, Cell]] = defaultdict(dict)
        for cell in group:
            rows[_row(cell)][cell.last.workload.batch or 0] = cell
        if len(rows) < 2 or len(batches) < 2:
            continue
        shown = table()
        shown.add_column(Text(f"{model} i{length} n{new}, batch"), overflow="fold", min_width=24)
        for batch in batches:
            shown.add_column(Text(str(batch)), justify="right", no_wrap=True)
        for name, at in rows.items():
            shown.add_row(Text(name), *(_cell(at.get(batch)) for batch in batches))
        for cell in refused:
            if clean(cell.last.model.name) == model and _row(cell) not in rows:
                shown.add_row(Text(_row(cell)), *(Text("unsupp") for _ in batches))
        drawn.append(shown)
    return titled("msec per token, wall / (batch x new tokens)", classes(found), drawn) if drawn else None


def _row(cell: Cell) -> str:
    return clean(f"{cell.last.engine.label} {cell.last.precision.dtype}")


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    if cell.status != "ok":
        return styled("OOM") if cell.status == "oom" else Text(_ENDED.get(cell.status, cell.status))
    values = [m.value for record in cell.records for m in record.metrics if m.name == METRIC and m.value is not None]
    return Text(number(statistics.median(values)) if values else "-")
