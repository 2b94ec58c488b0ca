"""Memory errors that the EDAC driver counted: corrected and uncorrected, by memory controller and module.

Source: Linux, Documentation/admin-guide/RAS: `/sys/devices/system/edac/mc/mc*/`.
"""

from __future__ import annotations

from pathlib import Path

from genqual.devices.files import read, read_int
from genqual.health.counters.base import Reading


class Edac:
    """Counts of `mc*`, and of each `dimm*` or `rank*` below it under its label."""

    name = "edac"

    def read(self, root: Path) -> Reading:
        place = root / "sys/devices/system/edac/mc"
        controllers = sorted(place.glob("mc[0-9]*"))
        if not controllers:
            return Reading(why_not=f"no memory controller in {place}: no EDAC driver, or a virtual machine")
        counts: dict[tuple[str, str], float] = {}
        for controller in controllers:
            for signal, file in (("corrected", "ce_count"), ("uncorrected", "ue_count")):
                if (count := read_int(controller / file)) is not None:
                    counts[controller.name, signal] = count
            for module in sorted([*controller.glob("dimm[0-9]*"), *controller.glob("rank[0-9]*")]):
                label = read(module / "dimm_label") or module.name
                for signal, file in (("corrected", "dimm_ce_count"), ("uncorrected", "dimm_ue_count")):
                    if (count := read_int(module / file)) is not None:
                        counts[f"{controller.name} {label}", signal] = count
        return Reading(counts) if counts else Reading(why_not=f"{place} has controllers, and none shows a count")
