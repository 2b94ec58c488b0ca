"""A comparison as a terminal table and as Markdown. Pure: returns what is shown, prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from genqual.analysis.compare import ComparedMetric, Comparison, Efficiency, Side, Unpaired
from genqual.analysis.terminal.display import ORDER, number, shown
from genqual.analysis.terminal.text import clean, markdown, spread

_CAPTION = (
    "B vs A: how many times better B is, 1.00x is equal; 95 %: bootstrap over raw samples, n/a below 5 of them or where"
    " they do not give the value. One launch's steps are not independent: a verdict needs the latency gate."
)

_EFFICIENCY = "Not comparable: unlike workloads. How well each used its own hardware, and nothing of how fast it is:"


def as_table(comparison: Comparison) -> RenderableType:
    """For a terminal of 80 columns or more; readable without colour."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("workload", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for name in ("A", "B", "B vs A", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("see", no_wrap=True)
    notes: list[str] = []
    for _, group in groupby(comparison.rows, key=_workload):
        rows = _ordered(group)
        for case, row in zip(spread(_workload(rows[0]), len(rows)), rows, strict=True):
            words = [case, clean(shown(row.metric, row.unit).title), _value(row, 0), _value(row, 1)]
            remarks = [_interval(row), _numbers(row, notes)]
            # Text, not str: rich would obey [markup] in a name.
            table.add_row(*map(Text, words), Text(_speedup(row), style=_style(row)), *map(Text, remarks))
        table.add_section()
    head = [Text(_heading("A", comparison.a)), Text(_heading("B", comparison.b)), Text("")]
    foot = [Text(f"[{index}] {note}") for index, note in enumerate(notes, start=1)]
    body = [table, Text(_CAPTION, style="dim")] if comparison.rows else [Text("No row stands on both sides.")]
    return Group(*head, *body, *foot, *_only(comparison), *_efficient(comparison))


def as_markdown(comparison: Comparison) -> str:
    """A GitHub table and lists; everything from a record is escaped."""
    lines = [f"- {markdown(_heading(name, side))}" for name, side in (("A", comparison.a), ("B", comparison.b))]
    lines += ["", "| model | engine | workload | metric | A | B | B vs A | 95 % | see |"]
    lines += ["|---|---|---|---|--:|--:|--:|--:|---|"]
    notes: list[str] = []
    for _, group in groupby(comparison.rows, key=_workload):
        for row in _ordered(group):
            model, *engines, workload = _workload(row)
            cells = [model, " ".join(engines), workload, shown(row.metric, row.unit).title]
            cells += [_value(row, 0), _value(row, 1), _speedup(row), _interval(row), _numbers(row, notes)]
            lines.append(f"| {' | '.join(markdown(cell) for cell in cells)} |")
    lines += ["", markdown(_CAPTION), "", *(f"{index}. {markdown(note)}" for index, note in enumerate(notes, start=1))]
    for name, alone in (("A", comparison.only_a), ("B", comparison.only_b)):
        if alone:
            lines += ["", f"Only in {name}:", "", *(f"- {markdown(item.what)}: {markdown(item.why)}" for item in alone)]
    if any(comparison.efficiency):
        lines += ["", _EFFICIENCY, "", "| side | row | MBU | MFU |", "|---|---|--:|--:|"]
        lines += [f"| {' | '.join(markdown(word) for word in words)} |" for words in _efficiency_rows(comparison)]
    return "\n".join(lines) + "\n"


def _efficient(comparison: Comparison) -> list[RenderableType]:
    if not any(comparison.efficiency):
        return []
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    for name in ("side", "row", "MBU", "MFU"):
        shown.add_column(name, overflow="fold", justify="right" if name.startswith("M") else "left")
    for words in _efficiency_rows(comparison):
        shown.add_row(*map(Text, words))
    return [Text(f"\n{_EFFICIENCY}"), shown]


def _efficiency_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{number(value * 100)} %"

    sides: tuple[tuple[str, Sequence[Efficiency]], ...] = tuple(zip("AB", comparison.efficiency, strict=True))
    return [(name, clean(one.what), share(one.mbu), share(one.mfu)) for name, some in sides for one in some]


def _workload(row: ComparedMetric) -> tuple[str, ...]:
    """The lines that name a group of rows."""
    one, other = row.engines
    engines = (one,) if one == other else (one, f"/ {other}")
    return tuple(clean(line) for line in (f"{row.model} {row.dtype}", *engines, row.workload))


def _ordered(rows: Iterable[ComparedMetric]) -> list[ComparedMetric]:
    return sorted(rows, key=lambda row: (ORDER.get(row.metric, len(ORDER)), row.metric))


def _value(row: ComparedMetric, side: int) -> str:
    value = (row.a, row.b)[side]
    if value is None:
        return "-" if row.statuses[side] == "ok" else row.statuses[side].upper()
    how = shown(row.metric, row.unit)
    return number(value * how.scale)


def _speedup(row: ComparedMetric) -> str:
    if row.speedup is not None:
        return f"{row.speedup:.2f}x"
    return "-" if row.a is None or row.b is None else "refused"


def _interval(row: ComparedMetric) -> str:
    if row.speedup is None:
        return "-"
    return "n/a" if row.interval is None else f"{row.interval[0]:.2f}-{row.interval[1]:.2f}"


def _style(row: ComparedMetric) -> str:
    """Colour only where the interval excludes 1; the numbers say the same."""
    if row.interval is None:
        return ""
    return "green" if row.interval[0] > 1 else "red" if row.interval[1] < 1 else ""


def _remarks(row: ComparedMetric) -> list[str]:
    return [clean(remark) for remark in (row.refused, *row.notes) if remark]


def _numbers(row: ComparedMetric, notes: list[str]) -> str:
    """The footnotes of this row, added to `notes` when they are new."""
    remarks = _remarks(row)
    notes += [remark for remark in remarks if remark not in notes]
    return ",".join(str(notes.index(remark) + 1) for remark in remarks)


def _heading(letter: str, side: Side) -> str:
    return f"{letter}: {clean(side.name)}: {_some(side.classes)}; {_some(side.runs)}"


def _some(names: Sequence[str]) -> str:
    shown_names = ", ".join(clean(name) for name in names[:3])
    return shown_names if len(names) <= 3 else f"{shown_names} and {len(names) - 3} more"


def _only(comparison: Comparison) -> list[RenderableType]:
    found: list[RenderableType] = []
    sides: tuple[tuple[str, Sequence[Unpaired]], ...] = (("A", comparison.only_a), ("B", comparison.only_b))
    for name, alone in sides:
        if alone:
            found.append(Text(f"\nOnly in {name}:"))
            found += [Text(f"  {clean(item.what)}: {clean(item.why)}") for item in alone]
    return found
