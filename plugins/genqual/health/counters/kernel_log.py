"""What the kernel said in exactly the window: hardware errors, and a driver's Xids. Source: `/dev/kmsg`, printk format.

Records carry a sequence number and microseconds since boot, so the window is told by number, not by a clock.
"""

from __future__ import annotations

import os
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
    records = _records(log)
    if isinstance(records, str):
        return Mark(0, records)
    return Mark(records[-1][0] + 1 if records else 0)


def since(start: Mark, log: Path = Path("/dev/kmsg")) -> list[KernelEvent] | str:
    """The events after `start`, in order; or why the window cannot be told."""
    found = lines_since(start, log)
    return found if isinstance(found, str) else events(found)


def lines_since(start: Mark, log: Path = Path("/dev/kmsg")) -> list[str] | str:
    """Every line after `start`, in order; or why the window cannot be told."""
    if start.why_not:
        return start.why_not
    records = _records(log)
    if isinstance(records, str):
        return records
    if (records[-1][0] if records else -1) + 1 < start.next_record:
        return f"the log ends before record {start.next_record}, where the window began: it was begun anew"
    records = [record for record in records if record[0] >= start.next_record]
    # Records are numbered without a gap, so a jump anywhere is what was overwritten before it could be read.
    expected = range(start.next_record, start.next_record + len(records))
    if any(number != counted for (number, _), counted in zip(records, expected, strict=True)):
        lost = records[-1][0] + 1 - start.next_record - len(records)
        return f"{lost} records were overwritten before they could be read"
    return [text for _, text in records]


def _records(log: Path) -> list[tuple[int, str]] | str:
    """(number, text) of every record. One read gives one record; EPIPE says that some were overwritten."""
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
    found = []
    for record in b"".join(read).decode(errors="replace").split("\n"):
        head, _, text = record.partition(";")
        words = head.split(",")
        if len(words) >= 3 and words[1].isdigit():
            found.append((int(words[1]), text))
    return found
