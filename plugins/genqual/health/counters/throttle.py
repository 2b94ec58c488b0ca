"""How often a core or a package was slowed to keep it cool. Source: Linux, `cpu*/thermal_throttle/*_throttle_count`."""

from __future__ import annotations

from pathlib import Path

from genqual.devices.files import read_int
from genqual.health.counters.base import Reading


class Throttle:
    """Counts of each CPU's core, and of its package."""

    name = "throttle"

    def read(self, root: Path) -> Reading:
        place = root / "sys/devices/system/cpu"
        counts: dict[tuple[str, str], float] = {}
        for folder in sorted(place.glob("cpu[0-9]*/thermal_throttle")):
            for signal in ("core", "package"):
                if (count := read_int(folder / f"{signal}_throttle_count")) is not None:
                    counts[folder.parent.name, f"{signal}_throttled"] = count
        return Reading(counts) if counts else Reading(why_not=f"no thermal_throttle in {place}: not Intel, or a guest")
