"""The tables at the end of a run. Pure: records in, what rich renders out; prints nothing, judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from genqual.analysis.terminal.conformance_view import conformance_table
from genqual.analysis.terminal.performance_view import performance_table
from genqual.analysis.terminal.post_view import post_table
from genqual.records.record import Record

APART: Final = frozenset({"largest_batch", "instances_tokens_per_s"})
"""Metrics of measurements of another kind: rows of their own, shown in words."""

__all__ = ["conformance_table", "performance_table", "post_table", "summary"]


def summary(records: Sequence[Record], width: int = 100) -> RenderableType:
    """Every table, each only when there is something in it; `width` is the terminal's, in columns."""
    timed = [record for record in records if not APART & {metric.name for metric in record.metrics}]
    drawn = (conformance_table(records), performance_table(timed, width), post_table(timed))
    tables = [table for table in drawn if table is not None]
    return Group(*tables[:1], *(part for table in tables[1:] for part in (Text(""), table)))
