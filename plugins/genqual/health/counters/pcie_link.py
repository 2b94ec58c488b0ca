"""Lanes and speed of each PCI Express link, against what its device can do.

Source: Linux, ABI sysfs-bus-pci: `current_link_width`, `max_link_width`, `current_link_speed`, `max_link_speed`. A card
in a narrow slot is narrow before and after, which is no event; a link that lost lanes in the window is one.
"""

from __future__ import annotations

from pathlib import Path

from genqual.devices.files import read, read_int
from genqual.health.counters import pci
from genqual.health.counters.base import Key, Reading


class PcieLink:
    """Lanes and gigatransfers per second that each link lacks."""

    name = "pcie_link"

    def read(self, root: Path) -> Reading:
        place = root / "sys/bus/pci/devices"
        levels: dict[Key, float] = {}
        for device in sorted(place.glob("*")):
            entity = pci.entity(device.name)
            width, widest = read_int(device / "current_link_width"), read_int(device / "max_link_width")
            if width is not None and widest:
                levels[entity, "lanes_lost"] = max(widest - width, 0)
            speed, fastest = _speed(device / "current_link_speed"), _speed(device / "max_link_speed")
            if speed is not None and fastest is not None:
                levels[entity, "speed_lost"] = max(fastest - speed, 0.0)
        return Reading(levels=levels) if levels else Reading(why_not=f"no PCI device in {place} shows its link")


def _speed(path: Path) -> float | None:
    """Of `16.0 GT/s PCIe`; 0 of `Unknown`, which is a link that is down; None where there is no file."""
    text = read(path)
    if text == "Unknown":
        return 0.0
    number, _, unit = (text or "").partition(" ")
    try:
        return float(number) if unit.startswith("GT/s") else None
    except ValueError:
        return None
