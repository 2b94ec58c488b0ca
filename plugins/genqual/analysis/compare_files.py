"""Comparisons as CSV and JSON. Pure: returns text. What could be a formula in a name is made inert."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from genqual.analysis.compare import Comparison
from genqual.analysis.terminal.text import inert

if TYPE_CHECKING:
    from genqual.analysis.compare_nodes import Fleet

_COMPARED = (
    *("a", "b", "model", "dtype", "workload", "engine_a", "engine_b", "metric", "unit", "better", "value_a", "value_b"),
    *("status_a", "status_b", "speedup", "low", "high", "refused", "notes"),
)
_NODES = ("class", "place", "node", "slower", "low", "high", "rows", "outlier")


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """A line a metric of a pair, then one for each row that stands on one side only; values in the records' units."""
    return table(_COMPARED, (line for one in comparisons for line in _lines(one)))


def as_json(comparisons: Sequence[Comparison]) -> str:
    """Everything that the tables are made of."""
    return json.dumps([asdict(one) for one in comparisons], indent=1, allow_nan=False)


def nodes_csv(fleets: Sequence[Fleet]) -> str:
    """A line a node, fastest first within its class."""
    return table(
        _NODES,
        (
            (fleet.class_id, place, one.name, one.slower, *(one.interval or (None, None)), one.rows, one.outlier)
            for fleet in fleets
            for place, one in enumerate(fleet.nodes, start=1)
        ),
    )


def nodes_json(fleets: Sequence[Fleet]) -> str:
    """Everything that the ranking is made of."""
    return json.dumps([asdict(one) for one in fleets], indent=1, allow_nan=False)


def table(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """CSV by RFC 4180, every text inert."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([inert(value) for value in line] for line in lines)
    return out.getvalue()


def _lines(one: Comparison) -> Iterable[tuple[Any, ...]]:
    for row in one.rows:
        yield (
            *(one.a.name, one.b.name, row.model, row.dtype, row.workload, *row.engines, row.metric, row.unit),
            *(row.better, row.a, row.b, *row.statuses, row.speedup, *(row.interval or (None, None))),
            *(row.refused or "", "; ".join(row.notes)),
        )
    for name, alone in (("A", one.only_a), ("B", one.only_b)):
        for item in alone:
            yield (one.a.name, one.b.name, item.what, *[""] * 13, "", f"only in {name}: {item.why}", "")
