"""What a CI service shows of a run: a table in Markdown, and GitHub's annotations. Pure but for the one append."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from genqual.records.record import Record
from genqual.session.verdict_rows import WORST_FIRST, Row

MOST_ROWS: Final = 200
"""GitHub takes a mebibyte of summary a step; these, at MOST_TEXT a cell, are well below it."""
MOST_TEXT: Final = 400
MOST_ANNOTATIONS: Final = 10
"""GitHub shows ten of a kind a step and drops the rest unsaid."""
_COUNTED: Final = frozenset({"RECORDED", "NOT APPLICABLE", "UNSUPPORTED", "ABSENT", "SKIPPED"})


def markdown(rows: Sequence[Row], records: Mapping[str, Record], title: str, notes: Sequence[str] = ()) -> str:
    """The table of verdicts, the worst first; what needs no reader is counted below it, `notes` stand last."""
    shown = [row for row in rows if row.verdict not in _COUNTED and not _right(row)]
    lines = [f"### {_text(title)}", "", _counts(rows), ""]
    if shown:
        lines += ["| verdict | case | metric | baseline | now | ratio | next |", "|---|---|---|---|---|---|---|"]
        lines += [_line(row, records) for row in shown[:MOST_ROWS]]
        lines += ["", f"{len(shown) - MOST_ROWS} more rows: see the log."] if len(shown) > MOST_ROWS else [""]
    reasons: dict[str, list[str]] = {}
    for row in shown[:MOST_ROWS]:
        if (row.failed or row.unjudged) and row.why:
            reasons.setdefault(_text(row.why), []).append(f"{_code(row.case)} {_text(row.what)}")
    lines += [f"- {', '.join(of)}: {why}" for why, of in reasons.items()]
    right = Counter(row.case for row in rows if _right(row))
    if right:
        found = [(row.case, records.get(row.record or "")) for row in rows]
        by_others = {case for case, one in found if one and one.judgement and one.judgement.independent is False}
        words = {
            case: f"{count} properties{', not independent' * (case in by_others)}" for case, count in right.items()
        }
        lines += ["", "Correct: " + "; ".join(f"{_code(case)} {said}" for case, said in words.items()), ""]
    lines += [f"- {_text(note)}" for note in notes]
    return "\n".join(lines).rstrip() + "\n\n"


def workflow_commands(rows: Sequence[Row]) -> list[str]:
    """GitHub's workflow commands: an error for what fails the run, a warning for what should have been judged."""
    found = []
    kinds = {
        "error": [row for row in rows if row.failed],
        "warning": [row for row in rows if row.unjudged and not row.failed],
    }
    for kind, of_kind in kinds.items():
        fit = len(of_kind) <= MOST_ANNOTATIONS
        for row in of_kind if fit else of_kind[: MOST_ANNOTATIONS - 1]:
            message = row.why + (f"\nnext: {row.next}" if row.next else "")
            found.append(_command(kind, f"{row.verdict} {row.case}: {row.what}", message))
        if not fit:
            left = len(of_kind) - MOST_ANNOTATIONS + 1
            found.append(_command(kind, f"{left} more", "GitHub shows ten; the others are in the job summary"))
    return found


def target(option: str | None) -> Path | None:
    """Where the summary goes: the file of the option, else the one that GitHub names, else nowhere."""
    given = option or os.environ.get("GITHUB_STEP_SUMMARY")
    return Path(given) if given else None


def append(path: Path, text: str) -> str:
    """Add `text` to what other steps wrote; why that could not be done, or nothing. It changes no verdict."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        return f"--summary-markdown {path}: cannot be written ({error.strerror})"
    return ""


def _right(row: Row) -> bool:
    """A property that holds; a metric that passes has numbers that a reader wants."""
    return row.verdict == "PASS" and not row.metric


def _counts(rows: Sequence[Row]) -> str:
    count = Counter(row.verdict for row in rows)
    return (
        ", ".join(f"{count[verdict]} {verdict}" for verdict in WORST_FIRST if count[verdict]) or "Nothing was judged."
    )


def _line(row: Row, records: Mapping[str, Record]) -> str:
    numbers = row.numbers(records)
    cells = [f"**{row.verdict}**" if row.failed else row.verdict, _code(row.case), _text(row.what)]
    return f"| {' | '.join([*cells, numbers.baseline, numbers.now, numbers.ratio, _code(row.next)])} |"


def _text(text: str) -> str:
    """One line of plain text in a cell: nothing in it is Markdown or HTML."""
    short = _short(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|~":
        short = short.replace(sign, f"\\{sign}")
    return short


def _code(text: str) -> str:
    """A code span in a cell: longer fences than any run of backticks within, and no bare bar."""
    # Whole, and with its spaces: a command that is cut cannot be run.
    short = text.replace("\r", " ").replace("\n", " ").strip().replace("|", "\\|")
    if not short:
        return ""
    fence = "`"
    while fence in short:
        fence += "`"
    space = " " if short.startswith("`") or short.endswith("`") else ""
    return f"{fence}{space}{short}{space}{fence}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_TEXT else f"{line[: MOST_TEXT - 1]}\N{HORIZONTAL ELLIPSIS}"


def _command(kind: str, title: str, message: str) -> str:
    escaped = _data(" ".join(title.split())).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={escaped}::{_data(message)}"


def _data(text: str) -> str:
    """As the runner reads it back: a per cent sign first, or it would be read as one of the others."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
