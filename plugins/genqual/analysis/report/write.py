"""A report as a file: HTML, or its rows as CSV or JSON, by the file's name. Written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from genqual.analysis.compare_files import table
from genqual.analysis.published.prices import Price
from genqual.analysis.report.decide import dollars
from genqual.analysis.report.rows import ReportRow, rows
from genqual.atomic import write_whole
from genqual.errors import BadInput, pip_install
from genqual.records.record import Record


@dataclass(frozen=True, slots=True)
class Written:
    """How much was written."""

    rows: int
    bytes: int


def write(
    path: Path,
    records: Sequence[Record],
    prices: Sequence[Price],
    *,
    sources: Sequence[str],
    title: str,
    signatures: Mapping[str, str] | None = None,
    detection: Sequence[tuple[str, str, str]] = (),
) -> Written:
    """Write the report of `records` to `path`. Raises BadInput where it cannot be written or an extra is missing.

    `detection` says of each judge its name, how many injected faults it found and on how many harmless runs it alarmed.
    """
    if path.suffix == ".html":
        text = _html(records, prices, sources=sources, title=title, signatures=signatures, detection=detection)
        count = len(re.findall(r'<tr id="r\d', text))
    else:
        found = rows(records, prices)
        text, count = (as_csv if path.suffix == ".csv" else as_json)(found, prices), len(found)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None
    return Written(count, len(text.encode()))


def as_csv(found: Sequence[ReportRow], prices: Sequence[Price]) -> str:
    """A line a row; $ per million tokens beside it, with its interval."""
    names = [one.name for one in fields(ReportRow) if one.name not in ("times", "peaks", "price")]
    lines = ([*(_plain(getattr(row, name)) for name in names), *_dollars(row, prices)] for row in found)
    return table([*names, "dollars_per_million", "dollars_low", "dollars_high"], lines)


def as_json(found: Sequence[ReportRow], prices: Sequence[Price]) -> str:
    """The same as a list of objects."""
    return json.dumps(
        [
            {
                **asdict(row),
                **dict(zip(("dollars_per_million", "dollars_low", "dollars_high"), _dollars(row, prices), strict=True)),
            }
            for row in found
        ],
        indent=1,
        allow_nan=False,
        default=dict,
    )


def _html(records: Sequence[Record], prices: Sequence[Price], **said: Any) -> str:
    try:
        from genqual.analysis.report.page import page
    except ImportError as error:
        command = pip_install(extra="report")
        raise BadInput(f"the page needs {error.name}: {command}; rows alone: -o rows.csv") from None
    return page(records, prices, **said)


def _dollars(row: ReportRow, prices: Sequence[Price]) -> tuple[float | None, float | None, float | None]:
    value, low, high = dollars(row, prices)
    return (None if value != value else value), low, high


def _plain(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, tuple) else value
