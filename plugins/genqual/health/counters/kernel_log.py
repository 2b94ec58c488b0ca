"""What the kernel said in exactly the window: hardware errors, and a driver's Xids. Source: `/dev/kmsg`, printk format.

Records carry a sequence number and microseconds since boot, so the window is told by number, not by a clock.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from genqual.health.counters.kernel_event import KernelEvent
from genqual.health.counters.kernel_events import events

MAX_RECORD: Final = 8192


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the log stood: the number of the next record. `why_not`: this process may not read it."""

    next_record: int
    why_not: str = ""


def mark(log: Path = Path("/dev/kmsg")) -> Mark:
    """The end of the log now. Opens it and reads to its end, which is some milliseconds at most."""
    lines = _lines(log)
    if isinstance(lines, str):
        return Mark(0, lines)
    return Mark(next((record[0] + 1 for record in _newest_first(lines)), 0))


def since(start: Mark, log: Path = Path("/dev/kmsg")) -> list[KernelEvent] | str:
    """The events after `start`, in order; or why the window cannot be told."""
    found = lines_since(start, log)
    return found if isinstance(found, str) else events(found)


def lines_since(start: Mark, log: Path = Path("/dev/kmsg")) -> list[str] | str:
    """Every line after `start`, in order; or why the window cannot be told."""
    if start.why_not:
        return start.why_not
    lines = _lines(log)
    if isinstance(lines, str):
        return lines
    newest_first = _newest_first(lines)
    records = list(itertools.takewhile(lambda record: record[0] >= start.next_record, newest_first))[::-1]
    if not records and next((record[0] + 1 for record in _newest_first(lines)), 0) < start.next_record:
        return f"the log ends before record {start.next_record}, where the window began: it was begun anew"
    # Records are numbered without a gap, so a jump anywhere is what was overwritten before it could be read.
    expected = range(start.next_record, start.next_record + len(records))
    if any(number != counted for (number, _), counted in zip(records, expected, strict=True)):
        lost = records[-1][0] + 1 - start.next_record - len(records)
        return f"{lost} records were overwritten before they could be read"
    return [text for _, text in records]


def _newest_first(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of every record from the last one back: a window is a few of thousands. Other lines are left out.

    Lines that begin with a space go on with the record before them: they name its device again.
    """
    for line in reversed(lines):
        head, _, text = line.partition(";")
        words = head.split(",")
        if len(words) >= 3 and words[1].isdigit():
            yield int(words[1]), text


def _lines(log: Path) -> list[str] | str:
    """Every line of the log; or why it cannot be read. One read gives one record; EPIPE: some were overwritten."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return f"{log}: {error.strerror}; run as root, or with CAP_SYSLOG"
    read = []
    try:
        while True:
            try:
                raw = os.read(descriptor, MAX_RECORD)
            except BrokenPipeError:
                continue  # records were overwritten while we read; the next one is whole
            except BlockingIOError:
                break
            if not raw:
                break
            read.append(raw)
    except OSError as error:
        return f"{log}: {error.strerror}"
    finally:
        os.close(descriptor)
    return b"".join(read).decode(errors="replace").split("\n")
