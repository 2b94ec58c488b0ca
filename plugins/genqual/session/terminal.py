"""What the terminal shows at the end, and the exit status of a run that judged nothing. Gives no verdict."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from rich.console import Console, RenderableType

from genqual.analysis.compare import compare
from genqual.analysis.compare_read import read
from genqual.analysis.compare_view import as_table
from genqual.analysis.published.prices import prices
from genqual.analysis.published.tables import NAME, published
from genqual.analysis.report.write import write
from genqual.analysis.terminal.summary import summary
from genqual.devices.registry import devices, processor
from genqual.errors import GenqualError
from genqual.records.record import Record
from genqual.records.redaction import redact
from genqual.session import job_summary, outcome
from genqual.session.context import Run
from genqual.session.selection import Selection
from genqual.session.verdict_rows import UNSUPPORTED, VerdictRows, skipped_for

_NO_SUITE: Final = "no test was found here: run it in the clone of genqual, or give --pyargs genqual.suites"
LOG_WIDTH: Final = 110  # where output is no terminal: wide enough for four workloads side by side
MOST_FAILURES: Final = 3  # whose command is shown: the first is the one to begin with
UNJUDGED: Final = {
    "no_baseline": ("no baseline", "B", "NO BASELINE"),
    "no_reference": ("no reference", "R", "NO REFERENCE"),
    "inconclusive": ("inconclusive", "I", "INCONCLUSIVE"),
    "recorded": ("recorded", "-", "RECORDED"),
    "waived": ("waived", "w", "WAIVED"),
    "not_applicable": ("not applicable", "n", "NOT APPLICABLE"),
}
JUDGED: Final = {
    "improved": ("improved", "+", ("IMPROVED", {"green": True, "bold": True})),
    # The category stays "failed": it is what pytest lists under FAILURES.
    "regressed": ("failed", "S", ("REGRESSED", {"red": True, "bold": True})),
    "hardware": ("failed", "H", ("HARDWARE", {"red": True, "bold": True})),
}


class Tally:
    """What became of each device's tests, read off the reports: the controller sees those of every xdist worker."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self.judged: Counter[str] = Counter()
        self.records: dict[str, None] = {}  # the ids of their records, in the order of the tests
        self.texts: list[str] = []
        self.not_applicable: Counter[str] = Counter()
        self.unsupported: Counter[str] = Counter()
        self.limits: list[str] = []
        self.inconclusive: dict[str, list[str]] = {}  # reason -> items
        self.verdicts = VerdictRows()

    def add(self, report: pytest.TestReport) -> None:
        """Count a report that carries a verdict, and note the records that its test spooled."""
        self.verdicts.add(report)
        told = outcome.of_report(report)
        self.records.update(dict.fromkeys(path.stem for path in told.records))
        if told.verdict == "not_applicable" and report.skipped:
            self.not_applicable[told.reason] += 1
        if report.skipped and told.verdict is None and (why := skipped_for(report)).startswith(UNSUPPORTED):
            self.unsupported[why.removeprefix(UNSUPPORTED)] += 1
        if report.when != "call":
            return
        if told.judged:
            self.judged[told.device] += 1
        if told.text:
            self.texts.append(told.text)
        if told.verdict == "inconclusive":
            self.inconclusive.setdefault(told.reason, []).append(report.nodeid.rpartition("::")[2])
        if told.limit:
            self.limits.append(told.limit + ("  WAIVED" if told.verdict == "waived" else ""))

    def status(self, report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Category, letter and word of a test whose verdict has a name of its own; None for every other."""
        if not isinstance(report, pytest.TestReport):
            return None
        word = outcome.of_report(report).verdict or ""
        if not report.skipped:
            return JUDGED.get(word) if report.when == "call" and (report.failed or word != "regressed") else None
        known = UNJUDGED.get(word)
        return known and (known[0], known[1], (known[2], {"yellow": True}))

    def unjudged(self) -> list[str]:
        """The devices that `-m` names and on which nothing was judged."""
        return [name for name in sorted(self._selection.named) if not self.judged[name]]

    def exit_status(self, run: Run, status: int) -> int:
        """Non-zero where nothing was judged, a required upload failed, or a waiver is stale."""
        if run.waivers.stale:
            return int(pytest.ExitCode.TESTS_FAILED)
        if self.unjudged() and not run.options.allow_absent:
            return int(pytest.ExitCode.TESTS_FAILED)
        pushed = run.records.pushed
        if run.options.require_upload and pushed is not None and not pushed.ok:
            return int(pytest.ExitCode.TESTS_FAILED)
        # All skipped on an absent device that was allowed, or an empty selection of it, is what the user asked for.
        return int(pytest.ExitCode.OK) if self._selection.named and run.options.allow_absent else status


def summarise(terminal: pytest.TerminalReporter, run: Run, tally: Tally) -> None:
    """Write the tables of this run's records, where they went, and what stayed unjudged."""
    if terminal.config.option.collectonly:
        return
    records, pushed = run.records.find(tally.records), run.records.pushed
    width = min(terminal._tw.fullwidth, 160) if terminal.isatty else LOG_WIDTH
    if records:
        terminal.section("genqual")
        terminal.write(rendered(summary(records, width), width, color=terminal._tw.hasmarkup))
    if tally.limits:
        terminal.section("genqual: limits of the profile")
        for line in tally.limits:
            terminal.write_line(line)
    if tally.texts:
        terminal.section("genqual: greedy text")
        for text in tally.texts:
            terminal.write_line(text)
    if tally.inconclusive:
        terminal.section("genqual: inconclusive")
        for reason, items in tally.inconclusive.items():
            terminal.write_line(f"{', '.join(items)}: {reason}")
    for word, reasons in (("not applicable", tally.not_applicable), ("unsupported", tally.unsupported)):
        if reasons:
            terminal.section(f"genqual: {word}")
        for reason, count in reasons.most_common():
            terminal.write_line(f"{count} x {word.upper()}: {reason}")
    _next_steps(terminal, tally)
    lines = list(run.warnings) + list(run.waivers.stale) + (pushed.lines() if pushed else [])
    if records:
        lines.insert(0, f"{len(records)} records of run {run.id} in {run.records.spool.directory}")
    lines += _finished(terminal, run, records, width)
    for name in tally.unjudged():
        why = _why(run, name) if terminal._numcollected else _NO_SUITE
        lines.append(f"{name} was asked for and nothing was judged on it: {why}")
    lines += _for_ci(terminal, run, tally, records, [line for line in lines if not line.startswith("report: ")])
    if lines:
        terminal.section("genqual: records")
        for line in lines:
            terminal.write_line(line)


def _next_steps(terminal: pytest.TerminalReporter, tally: Tally) -> None:
    """The commands that run a failure again or decide what this run did not, each once, with how many it is for."""
    rows = [row for row in tally.verdicts.rows if (row.failed or row.unjudged) and row.next]
    if not rows:
        return
    terminal.section("genqual: next")
    failures = 0
    for command in dict.fromkeys(row.next for row in rows):
        of = [row for row in rows if row.next == command]
        failures += of[0].failed
        if of[0].failed and failures > MOST_FAILURES:
            continue
        verdicts = ", ".join(dict.fromkeys(row.verdict for row in of))
        terminal.write_line(f"{len(of)} x {verdicts}: {command}")
    if failures > MOST_FAILURES:
        terminal.write_line(f"{failures - MOST_FAILURES} more such commands are in what --junit-xml writes")


def _for_ci(
    terminal: pytest.TerminalReporter, run: Run, tally: Tally, records: list[Record], notes: list[str]
) -> list[str]:
    """The job summary and GitHub's annotations, of a run that this suite had a test in; neither changes a verdict."""
    rows = tally.verdicts.rows
    if not rows:
        return []
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in job_summary.workflow_commands(rows):
            terminal.ensure_newline()
            terminal.write_line(line)  # unmarked, from the line's start: the runner reads it there only
    target = job_summary.target(run.options.summary_markdown)
    if target is None:
        return []
    by_id = {record.id: record for record in records}
    problem = job_summary.append(target, job_summary.markdown(rows, by_id, f"genqual: run {run.id}", notes))
    return [problem] if problem else []


def _finished(terminal: pytest.TerminalReporter, run: Run, records: list[Record], width: int) -> list[str]:
    """The comparison and the page that were asked for; neither changes a verdict, so a failure is a line."""
    said: list[str] = []
    options = run.options
    if not records:
        return [f"{name}: this run made no record" for name in (options.compare_to, options.report) if name]
    if options.compare_to:
        try:
            found = compare(read(options.compare_to), records, (redact(options.compare_to), f"this run, {run.id}"))
            terminal.section("genqual: compared")
            terminal.write(rendered(as_table(found), width, color=terminal._tw.hasmarkup))
        except GenqualError as error:
            said.append(f"--compare-to: {error}")
    if options.report:
        try:
            everything = [*records, *published()]
            title = f"genqual: run {run.id} beside what was published"
            write(Path(options.report), everything, prices(), sources=[f"run {run.id}", NAME], title=title)
            said.append(f"report: {options.report}")
        except GenqualError as error:
            said.append(f"--report: {error}")
    return said


def rendered(what: RenderableType, width: int, *, color: bool) -> str:
    """A rich renderable as text for pytest's terminal."""
    console = Console(width=width, force_terminal=color, no_color=not color, highlight=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def _why(run: Run, device: str) -> str:
    found = run.selection.presence(device)
    if not found.present:
        is_processor = devices()[device].torch_device == "cpu"
        instead = f". Run -m {processor().name} on this machine" if is_processor else ""
        return f"{found.probe} found {found.found}{instead}. --allow-absent accepts an absent device"
    return "no selected test gave a verdict (deselected, skipped, or without a reference or baseline)"
