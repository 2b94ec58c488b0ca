"""Energy that the processor counted, in joules. Source: Linux, powercap: `intel-rapl:*/energy_uj`, also on AMD.

The counter wraps at `max_energy_range_uj`, on a busy server within minutes: windows longer than that need samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genqual.devices.files import read, read_int

_MICRO = 1e-6
MOST_WATTS = 1000.0
"""Of a package: its counter is trusted for as long as this would take to bring it once round."""


@dataclass(frozen=True, slots=True)
class Energy:
    """Microjoules of each package now, and where its counter begins again."""

    microjoules: dict[str, int]
    ranges: dict[str, int]
    why_not: str = ""


def read_energy(root: Path) -> Energy:
    """What the packages have counted so far. Domains within a package are part of it and left out."""
    place = root / "sys/class/powercap"
    zones = [zone for zone in sorted(place.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not zones:
        return Energy({}, {}, f"no package in {place}: no RAPL driver, or a virtual machine")
    counted: dict[str, int] = {}
    ranges: dict[str, int] = {}
    for zone in zones:
        name = read(zone / "name") or zone.name
        value, limit = read_int(zone / "energy_uj"), read_int(zone / "max_energy_range_uj")
        if value is not None and limit:
            counted[name], ranges[name] = value, limit
    if not counted:
        return Energy({}, {}, f"{place}: energy_uj is not readable; since Linux 5.10 it needs root or CAP_SYS_ADMIN")
    return Energy(counted, ranges)


def joules(before: Energy, after: Energy) -> float | None:
    """Of all packages between two readings, one wrap of each counter undone; None where it cannot be told."""
    if before.why_not or after.why_not or set(before.microjoules) != set(after.microjoules):
        return None
    total = 0
    for name, value in after.microjoules.items():
        then = before.microjoules[name]
        total += value - then if value >= then else value - then + after.ranges[name]
    return total * _MICRO
