"""The two tables at the end of a run. Pure: records in, what rich renders out; prints nothing, judges nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from genqual.results.conformance_view import conformance_table
from genqual.results.performance_view import performance_table
from genqual.results.record import Record

__all__ = ["conformance_table", "performance_table", "summary"]


def summary(records: Sequence[Record], width: int = 100) -> RenderableType:
    """Both tables, each only when there is something in it; `width` is the terminal's, in columns."""
    tables = [table for table in (conformance_table(records), performance_table(records, width)) if table is not None]
    return Group(*tables[:1], *(part for table in tables[1:] for part in (Text(""), table)))
