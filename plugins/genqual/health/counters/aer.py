"""Errors of PCI Express that each device reported. Source: Linux, ABI sysfs-bus-pci-devices-aer, since 4.19.

A root port may count what its link partner caused: the entity is who saw the error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from genqual.devices.files import read, whole
from genqual.health.counters import pci
from genqual.health.counters.base import Key, Reading

_FILES: Final = {
    "corrected": ("aer_dev_correctable", "TOTAL_ERR_COR"),
    "nonfatal": ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL"),
    "fatal": ("aer_dev_fatal", "TOTAL_ERR_FATAL"),
}


# What a device refuses is no error of it: a program that reads configuration space is enough.
_REFUSED: Final = ("UnsupReq", "ACSViol")


class Aer:
    """Totals of each device that can tell, by its address; refused requests are told apart from what was lost."""

    name = "aer"

    def read(self, root: Path) -> Reading:
        place = root / "sys/bus/pci/devices"
        counts: dict[Key, float] = {}
        for device in sorted(place.glob("*")):
            entity = pci.entity(device.name)
            for signal, (file, total) in _FILES.items():
                told = _fields(device / file)
                if (count := told.pop(total, None)) is None:
                    continue
                counts[entity, signal] = count
                if signal == "nonfatal":
                    # Not the total less what was refused: it counts messages, and one message may have two reasons.
                    counts[entity, "refused"] = sum(told.pop(name, 0) for name in _REFUSED)
                    counts[entity, signal] = sum(told.values())
        return Reading(counts) if counts else Reading(why_not=f"no PCI device in {place} counts its errors")


def _fields(path: Path) -> dict[str, int]:
    found = {}
    for line in (read(path) or "").splitlines():
        name, _, value = line.rpartition(" ")
        if (count := whole(value)) is not None:
            found[name.strip()] = count
    return found
