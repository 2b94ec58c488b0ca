"""Errors of PCI Express that each device reported. Source: Linux, ABI sysfs-bus-pci-devices-aer, since 4.19.

A root port may count what its link partner caused: the entity is who saw the error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from genqual.devices.files import read, whole
from genqual.health.counters.base import Reading

_FILES: Final = {
    "corrected": ("aer_dev_correctable", "TOTAL_ERR_COR"),
    "nonfatal": ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL"),
    "fatal": ("aer_dev_fatal", "TOTAL_ERR_FATAL"),
}


class Aer:
    """Totals of each device that can tell, by its address."""

    name = "aer"

    def read(self, root: Path) -> Reading:
        place = root / "sys/bus/pci/devices"
        counts: dict[tuple[str, str], float] = {}
        for device in sorted(place.glob("*")):
            for signal, (file, total) in _FILES.items():
                for line in (read(device / file) or "").splitlines():
                    name, _, value = line.rpartition(" ")
                    if name.strip() == total and (count := whole(value)) is not None:
                        counts[f"PCI:{device.name}", signal] = count
        return Reading(counts) if counts else Reading(why_not=f"no PCI device in {place} counts its errors")
