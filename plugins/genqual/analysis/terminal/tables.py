"""What the terminal's tables share: how a case is named, grouped and coloured. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genqual.analysis.cells import Cell
from genqual.analysis.terminal.text import clean

_STYLES: Final = {
    "PASS": "green",
    "IMPROVED": "green",
    "FAIL": "bold red",
    "WAIVED": "yellow",
    "NO REFERENCE": "yellow",
    "REGRESSED": "bold red",
    "WRONG": "bold red",
    "ERROR": "red",
    "TIMEOUT": "red",
    "OOM": "magenta",
}


def styled(word: str) -> Text:
    """A verdict or status; colour only repeats what the word says."""
    return Text(word, style=_STYLES.get(word, ""))


def said(word: str) -> str:
    """`no_baseline` as a person reads it: NO BASELINE."""
    return word.upper().replace("_", " ")


def table() -> Table:
    """An empty table, without lines at its sides: two spaces between columns."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)


def titled(title: str, where: str, tables: Iterable[Table]) -> RenderableType:
    """The tables under one heading, a blank line before each."""
    parts: list[RenderableType] = [Text(f"{title}  {where}".rstrip(), style="bold")]
    for each in tables:
        parts += [Text(""), each]
    return Group(*parts)


def by_case(found: Iterable[Cell]) -> list[tuple[tuple[str, ...], list[Cell]]]:
    """The cells of each case, under the lines that name it: what ran, how, and where when there are several places."""
    every = list(found)
    many = len({cell.last.system.class_id for cell in every}) > 1
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in every:
        record = cell.last
        lines = [f"{record.model.name} {record.precision.dtype}", record.engine.label]
        groups[tuple(clean(line) for line in [*lines, *([record.system.class_id] if many else [])])].append(cell)
    return sorted(groups.items())


def classes(found: Iterable[Cell]) -> str:
    """The hardware class, when there is one; else it stands in each case."""
    names = {cell.last.system.class_id for cell in found}
    return clean(next(iter(names))) if len(names) == 1 else ""
