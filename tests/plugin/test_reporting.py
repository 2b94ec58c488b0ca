"""What the terminal says at the end of a run that could not decide: each reason once, with the items it is of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from genqual.session import outcome
from genqual.session.options import Options
from genqual.session.outcome import ItemOutcome, VerdictName
from genqual.session.selection import Selection
from genqual.session.terminal import Tally, summarise


def report(item: str, verdict: VerdictName, reason: str, *, when: str = "call", ended: str = "skipped") -> Any:
    longrepr = ("suite.py", 3, f"Skipped: {verdict.upper()}: {reason}") if ended == "skipped" else reason
    made = pytest.TestReport(
        f"suite.py::{item}", ("suite.py", 3, item), {}, ended, longrepr, when,  # type: ignore[arg-type]
    )  # fmt: skip
    outcome.attach(made, ItemOutcome(device="cpu", verdict=verdict, reason=reason))
    return made


def test_reasons_of_what_is_inconclusive_are_told() -> None:
    tally = Tally(Selection(Options(), ""))
    tally.add(report("test_a[x]", "inconclusive", "the host slept"))
    tally.add(report("test_b[x]", "inconclusive", "the host slept"))
    tally.add(report("test_c[x]", "inconclusive", "the budget is spent", ended="failed"))  # by --gate
    tally.add(report("test_d[x]", "no_baseline", "no baseline"))
    tally.add(report("test_a[x]", "inconclusive", "the host slept", when="teardown"))
    lines: list[str] = []
    terminal: Any = SimpleNamespace(
        config=SimpleNamespace(option=SimpleNamespace(collectonly=False)),
        section=lines.append, write_line=lines.append, write=lines.append,
        _tw=SimpleNamespace(fullwidth=100, hasmarkup=False), isatty=True,
    )  # fmt: skip
    run: Any = SimpleNamespace(
        warnings=(), waivers=SimpleNamespace(stale=[]), options=Options(), id="run",
        records=SimpleNamespace(pushed=None, spool=SimpleNamespace(directory="."), find=list),
    )  # fmt: skip
    summarise(terminal, run, tally)
    assert lines == [
        "genqual: inconclusive",
        "test_a[x], test_b[x]: the host slept",
        "test_c[x]: the budget is spent",
    ]
