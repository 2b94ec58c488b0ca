"""The conformance table at the end of a run. Pure: records in, what rich renders out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from genqual.analysis.cells import Cell, cells, failed, waiver_of
from genqual.analysis.terminal.tables import by_case, classes, said, styled, table, titled
from genqual.analysis.terminal.text import clean, spread
from genqual.records.record import Record


@dataclass(frozen=True, slots=True)
class _Property:
    """One property of one case: the worst of its verdicts, of `count`."""

    name: str
    worst: Cell
    count: int

    @property
    def verdict(self) -> str:
        return _verdict(self.worst)

    @property
    def words(self) -> str:
        return self.name if self.count == 1 else f"{self.name} x{self.count}"


def conformance_table(records: Iterable[Record]) -> RenderableType | None:
    """Cases down; a row for every property that failed, and one for all that share another verdict.

    Of those that passed the one closest to its limit is shown, with its nrms and nrms / limit. None when nothing was
    judged.
    """
    found = cells(records, "judgement")
    if not found:
        return None
    shown = table()
    shown.add_column("case", overflow="fold", min_width=16)
    shown.add_column("property", overflow="fold")
    for name in ("nrms", "of limit"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    for case, group in by_case(found):
        rows = _rows(_properties(group))
        for label, (words, cell, verdict) in zip(spread(case, len(rows)), rows, strict=True):
            shown.add_row(*map(Text, (label, words, *_numbers(cell))), styled(verdict))
        shown.add_section()
    return titled("Is it right?", classes(found), [shown])


def _rows(properties: Sequence[_Property]) -> list[tuple[str, Cell | None, str]]:
    """Words, the cell whose numbers stand beside them, verdict: what is wrong first and one by one, passes last.

    Of what is wrong, known failures that a waiver excuses come after the others.
    """
    wrong = [one for one in properties if failed(one.worst.last)]
    wrong.sort(key=lambda one: waiver_of(one.worst.last) is not None)
    rows: list[tuple[str, Cell | None, str]] = [(one.words, one.worst, one.verdict) for one in wrong]
    alike: dict[str, list[_Property]] = defaultdict(list)
    for one in properties:
        if not failed(one.worst.last):
            alike[one.verdict].append(one)
    for verdict, some in sorted(alike.items(), key=lambda item: (item[0] == "PASS", item[0])):
        closest = max(some, key=lambda one: _share(one.worst) or 0.0)
        if len(some) == 1:
            rows.append((f"{some[0].words}{_by(some) if verdict == 'PASS' else ''}", some[0].worst, verdict))
        elif verdict != "PASS":
            rows.append((f"{some[0].name} and {len(some) - 1} more", None, verdict))
        elif _share(closest.worst) is None:
            rows.append((f"{len(some)} properties{_by(some)}", None, verdict))
        else:
            rows.append((f"{len(some)} properties; closest: {closest.name}{_by(some)}", closest.worst, verdict))
    return rows


def _by(some: Iterable[_Property]) -> str:
    """What a pass rests on where that is not genqual's own oracle."""
    judged = [one.worst.last.judgement for one in some]
    return "; not independent" if any(one and one.independent is False for one in judged) else ""


def _properties(group: Iterable[Cell]) -> list[_Property]:
    same: dict[str, list[Cell]] = defaultdict(list)
    for cell in group:
        same[_name(cell)].append(cell)
    return [_Property(name, max(some, key=_severity), len(some)) for name, some in sorted(same.items())]


def _name(cell: Cell) -> str:
    """What was judged, in words; the precision mode too, where the case's own dtype does not tell it."""
    judged = cell.last.judgement
    words = judged.property.replace("_", " ") if judged else ""
    if judged is None or judged.lane in ("declared", cell.last.precision.dtype):
        return words
    return clean(f"{words} ({judged.lane})")


def _share(cell: Cell) -> float | None:
    """nrms as a part of its limit."""
    judged = cell.last.judgement
    return judged.nrms / judged.limit if judged and judged.nrms is not None and judged.limit else None


def _numbers(cell: Cell | None) -> tuple[str, str]:
    judged, share = (cell.last.judgement, _share(cell)) if cell else (None, None)
    nrms = judged.nrms if judged else None
    return "-" if nrms is None else f"{nrms:.1e}", "-" if share is None else f"{share:.2f}"


def _severity(cell: Cell) -> tuple[int, float]:
    """Wrong, then wrong and waived, then not judged, then nearest to its limit."""
    if failed(cell.last):
        return (3 if waiver_of(cell.last) is None else 2), _share(cell) or 0.0
    return (0 if _verdict(cell) == "PASS" else 1), _share(cell) or 0.0


def _verdict(cell: Cell) -> str:
    """The verdict, WAIVED where a failure is excused; or how the run ended, where it ended before there was one."""
    if waiver_of(cell.last) is not None:
        return "WAIVED"
    judged, status = cell.last.judgement, cell.last.outcome.status
    return said(judged.verdict if judged and status in ("ok", "accuracy_fail", "skipped") else status)
