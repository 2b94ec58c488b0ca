"""What the kernel logged of PCI Express: AER's messages and their details, and ports that were contained. Pure.

Source: Linux, `drivers/pci/pcie/aer.c` and `dpc.c`. One error is several lines: the root port's message, the device's
own `PCIe Bus Error`, and the bits of its status register.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from genqual.health.counters import pci
from genqual.health.counters.kernel_event import KernelEvent

# "Corrected" until Linux 6.2, "Correctable" since.
_SEVERITY: Final = r"(?P<severity>Uncorrect(?:ed|able) \((?:Non-)?Fatal\)|Correct(?:ed|able))"
_MESSAGE: Final = re.compile(
    rf"(?P<port>{pci.ADDRESS}): AER: (?:Multiple )?{_SEVERITY} error (?:message )?received(?: from|:) "
    rf"(?:id=(?P<id>[0-9a-f]{{4}})|(?P<device>{pci.ADDRESS}))"
)
_ERROR: Final = re.compile(rf"(?P<device>{pci.ADDRESS}): (?:AER: +)?PCIe Bus Error: severity={_SEVERITY}")
_STATUS: Final = re.compile(
    rf"(?P<device>{pci.ADDRESS}):\s+(?:AER:\s+)?device \[[0-9a-f:]+\] error status/mask="
    r"(?P<status>[0-9a-f]{8})/(?P<mask>[0-9a-f]{8})"
)
# What the kernel says of a device after the firmware's record of it: `aer_recover_queue`, `pci_print_aer`.
_FIRMWARE_STATUS: Final = re.compile(
    rf"(?P<device>{pci.ADDRESS}): (?:AER: )?aer_status: 0x(?P<status>[0-9a-f]{{8}}), "
    r"aer_mask: 0x(?P<mask>[0-9a-f]{8})"
)
_CONTAINED: Final = re.compile(rf"(?P<device>{pci.ADDRESS}): DPC: containment event")
# Not `[13] NonFatalErr`, a detail of a corrected error, which Linux 5 writes behind `AER:`.
_OTHER: Final = re.compile(r"AER: .*(?P<severity>Uncorrect|\bFatal|Correct)")
_PCI: Final = re.compile(rf"\b({pci.ADDRESS})")

# UnsupReq and ACSViol: a device refused what it was asked, which a program that reads configuration space can cause.
REFUSED: Final = 1 << 20 | 1 << 21


@dataclass(slots=True)
class _Told:
    """The last event of a device: where it is kept, and whether details of it may follow."""

    at: int
    nonfatal: bool
    message: bool


class Pcie:
    """Adds events of PCI Express to `found`, line by line."""

    def __init__(self, found: list[KernelEvent]) -> None:
        self._found = found
        self._told: dict[str, _Told] = {}

    def takes(self, line: str) -> bool:
        """Whether the line is about PCI Express; it has then been judged."""
        if message := _MESSAGE.search(line):
            port = message["port"]
            source = message["device"]
            entity = pci.entity(source) if source else pci.of_source_id(message["id"], port)
            self._add(entity, message["severity"], line, message=True)
        elif error := _ERROR.search(line):
            entity = pci.entity(error["device"])
            if not self._announced(entity, error["severity"]):
                self._add(entity, error["severity"], line, message=False)
        elif status := _STATUS.search(line) or _FIRMWARE_STATUS.search(line):
            self._detail(pci.entity(status["device"]), int(status["status"], 16) & ~int(status["mask"], 16))
        elif contained := _CONTAINED.search(line):
            self._add(pci.entity(contained["device"]), "Uncorrectable (Fatal)", line, message=False)
        elif other := _OTHER.search(line):
            devices = _PCI.findall(line)
            # Of several devices the last one had the error; the first is the port that reported it.
            self._add(pci.entity(devices[-1]) if devices else "host", other["severity"], line, message=False)
        else:
            return False
        return True

    def details_follow(self, event: KernelEvent) -> None:
        """The event of a firmware's record, which is added next: the kernel may tell its status afterwards."""
        if event.kind == "pcie_uncorrected":
            self._told[event.entity] = _Told(len(self._found), "recoverable" in event.text, message=False)

    def _add(self, entity: str, severity: str, line: str, *, message: bool) -> None:
        kind = "pcie_corrected" if severity.startswith("Correct") else "pcie_uncorrected"
        self._told[entity] = _Told(len(self._found), "Non-Fatal" in severity, message)
        self._found.append(KernelEvent(kind, entity, line))

    def _announced(self, entity: str, severity: str) -> bool:
        """Whether the root port's message of this very error came before; it then has its details."""
        told = self._told.get(entity)
        if told is None or not told.message:
            return False
        told.message = False
        kind = self._found[told.at].kind
        return (kind == "pcie_corrected") == severity.startswith("Correct")

    def _detail(self, entity: str, status: int) -> None:
        told = self._told.get(entity)
        if told is not None and told.nonfatal and status and not status & ~REFUSED:
            event = self._found[told.at]
            self._found[told.at] = KernelEvent("pcie_refused", event.entity, event.text)
