"""Counters of the hardware round every judged test: after an uncorrectable error its verdict is the hardware's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genqual.health.checks.counters import Window
from genqual.health.finding import Finding, Outcome, Severity
from genqual.session import outcome

ROOT = Path("/")  # below which counters are found; another tree in tests


@contextmanager
def judged_window(item: pytest.Item) -> Iterator[None]:
    """Run a test's call within a window of counters.

    Raises pytest's failure where the hardware reported what takes a node out of service: whatever the test said, its
    numbers are worth nothing. What the test itself raised is told after it.
    """
    window = Window.begin(ROOT)
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        events = fatal(window.end(ROOT))
        # A skip judged nothing, and an interrupt ends the run: neither is turned into a verdict.
        if events and not isinstance(failure, pytest.skip.Exception | KeyboardInterrupt | SystemExit):
            raise pytest.fail.Exception(words(item, events, failure), pytrace=False) from None


def fatal(findings: list[Finding]) -> list[Finding]:
    """Of a window's findings those that take a node out of service."""
    return [one for one in findings if one.outcome is Outcome.BAD and one.severity is Severity.FATAL]


def words(item: pytest.Item, events: list[Finding], failure: BaseException | None) -> str:
    """The verdict in words; the item's own verdict gives way to it."""
    outcome.tell(item, verdict="hardware")
    lines = [f"HARDWARE: {one.check} of {one.entity} ({one.component}): {one.evidence}; {one.action}" for one in events]
    lines.append("The test passed within the same window." if failure is None else f"The test itself said: {failure}")
    return "\n".join(lines)
