"""A ranking of nodes as a terminal table and as Markdown. Pure: returns what is shown, prints nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from genqual.analysis.compare_nodes import ComparedNode, Fleet
from genqual.analysis.terminal.tables import table
from genqual.analysis.terminal.text import clean, markdown

_CAPTION = (
    "slower: how many times slower than the fleet's median, the median over the rows that several nodes have;"
    " 95 %: bootstrap over rows, n/a below 5"
)
_HEADS = ("#", "node", "slower", "95 %", "rows", "")


def as_table(fleets: Sequence[Fleet]) -> RenderableType:
    """For a terminal; outliers say so in words."""
    parts: list[RenderableType] = []
    for fleet in fleets:
        shown = table()
        for name in _HEADS:
            shown.add_column(name, justify="left" if name in ("node", "") else "right")
        for place, node in enumerate(fleet.nodes, start=1):
            words = _cells(place, node)
            shown.add_row(*map(Text, words[:-1]), Text(words[-1], style="bold red" if node.outlier else ""))
        parts.append(Text(clean(fleet.class_id), style="bold"))
        parts += [shown] if fleet.nodes else [Text("no row stands on two nodes: nothing to rank")]
        parts += [*(Text(clean(note)) for note in fleet.notes), Text("")]
    return Group(*parts, Text(_CAPTION, style="dim"))


def as_markdown(fleets: Sequence[Fleet]) -> str:
    """A table a hardware class; everything from a record is escaped."""
    lines: list[str] = []
    for fleet in fleets:
        lines += [f"**{markdown(fleet.class_id)}**", ""]
        if fleet.nodes:
            lines += [f"| {' | '.join(_HEADS)} |", "|--:|---|--:|--:|--:|---|"]
            lines += [
                f"| {' | '.join(map(markdown, _cells(place, node)))} |"
                for place, node in enumerate(fleet.nodes, start=1)
            ]
        else:
            lines.append("no row stands on two nodes: nothing to rank")
        lines += ["", *(f"- {markdown(note)}" for note in fleet.notes), ""]
    return "\n".join([*lines, _CAPTION]) + "\n"


def _cells(place: int, node: ComparedNode) -> tuple[str, ...]:
    spread = f"{node.interval[0]:.3f}-{node.interval[1]:.3f}" if node.interval else "n/a"
    return str(place), clean(node.name), f"{node.slower:.3f}x", spread, str(node.rows), clean(node.outlier)
