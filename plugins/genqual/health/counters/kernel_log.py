"""What the kernel said in exactly the window: hardware errors, and a driver's Xids. Source: `/dev/kmsg`, printk format.

Records carry a sequence number and microseconds since boot, so the window is told by number, not by a clock.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_RECORD: Final = 8192

# NVIDIA, "XID errors": those that an application's own mistake or end raises say nothing of the hardware.
_XID: Final = re.compile(r"NVRM: Xid \(PCI:(?P<bus>[0-9a-fA-F:.]+)\): (?P<number>\d+)")
APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 69, 109, 110})
FATAL_XIDS: Final = frozenset({48, 63, 64, 74, 79, 94, 95, 119, 120, 121, 140})

_HARDWARE: Final = (
    (re.compile(r"\[Hardware Error\].*(uncorrected|Uncorrected|fatal|Fatal|UE\b)"), "uncorrected"),
    (re.compile(r"EDAC .*\bUE\b"), "uncorrected"),
    (re.compile(r"Memory failure: .*(hardware memory corruption|recovery action)"), "uncorrected"),
    (re.compile(r"mce: \[Hardware Error\]: (Machine check|CPU \d+: Machine Check Exception)"), "machine_check"),
    (re.compile(r"EDAC .*\bCE\b|\[Hardware Error\].*[Cc]orrected"), "corrected"),
    (re.compile(r"AER: .*(Uncorrect|Fatal)|PCIe Bus Error: severity=Uncorrect"), "pcie_uncorrected"),
    (re.compile(r"AER: .*Correct|PCIe Bus Error: severity=Correct"), "pcie_corrected"),
    (re.compile(r"habanalabs.*(hl_device_reset|ECC error|critical error|H/W error)", re.IGNORECASE), "accelerator"),
)

_PCI: Final = re.compile(r"\b([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])\b")
_PLACES: Final = (
    (re.compile(r"EDAC MC(?P<mc>\d+):.* on (?P<label>\S+)"), "mc{mc} {label}"),
    (re.compile(r"Memory failure: (?P<page>0x[0-9a-fA-F]+)"), "page {page}"),
    (re.compile(r"\[Hardware Error\]: .*?CPU[ :](?P<cpu>\d+)"), "cpu{cpu}"),
    (re.compile(r"habanalabs (?P<card>hl\d+)"), "{card}"),
)
"""How a line names what it is about, and how a counter of the same thing is called here."""


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One line of the kernel that tells of hardware: what kind, of which entity, and the line itself."""

    kind: str
    entity: str
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the log stood: the number of the next record. `why_not`: this process may not read it."""

    next_record: int
    why_not: str = ""


def mark(log: Path = Path("/dev/kmsg")) -> Mark:
    """The end of the log now. Opens it and reads to its end, which is some milliseconds at most."""
    records = _records(log, 0)
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
    records = _records(log, start.next_record)
    if isinstance(records, str):
        return records
    if records and records[0][0] > start.next_record:
        return f"{records[0][0] - start.next_record} records were overwritten before they could be read"
    return [text for _, text in records]


def events(lines: Iterable[str]) -> list[KernelEvent]:
    """What `lines` of the kernel tell of hardware; an application's own Xid is no event."""
    found = []
    for line in lines:
        if xid := _XID.search(line):
            number = int(xid["number"])
            if number not in APPLICATION_XIDS:
                kind = "xid_fatal" if number in FATAL_XIDS else "xid"
                found.append(KernelEvent(kind, f"PCI:{xid['bus']}", line))
            continue
        kind = next((kind for pattern, kind in _HARDWARE if pattern.search(line)), "")
        if kind:
            found.append(KernelEvent(kind, _entity(line), line))
    return found


def _entity(line: str) -> str:
    """What the line is about, as exactly as it says: a module, a page, a CPU, a PCI device; else the host.

    Of several PCI devices the last one had the error; the first is the port that reported it.
    """
    for pattern, words in _PLACES:
        if found := pattern.search(line):
            return words.format(**found.groupdict())
    devices = _PCI.findall(line)
    return f"PCI:{devices[-1]}" if devices else "host"


def _records(log: Path, first: int) -> list[tuple[int, str]] | str:
    """(number, text) from record `first` on. One read gives one record; EPIPE says that some were overwritten."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return f"{log}: {error.strerror}; run as root, or with CAP_SYSLOG"
    found = []
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
            for record in raw.decode(errors="replace").split("\n"):
                head, _, text = record.partition(";")
                words = head.split(",")
                if len(words) >= 3 and words[1].isdigit() and int(words[1]) >= first:
                    found.append((int(words[1]), text))
    except OSError as error:
        return f"{log}: {error.strerror}"
    finally:
        os.close(descriptor)
    return found
