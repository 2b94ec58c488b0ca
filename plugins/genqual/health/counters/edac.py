"""Memory errors that the EDAC driver counted: corrected and uncorrected, by memory controller and module.

Source: Linux, Documentation/admin-guide/RAS: `/sys/devices/system/edac/mc/mc*/`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from genqual.devices.files import read, read_int
from genqual.health.counters.base import Key, Reading


class Edac:
    """Counts of each `dimm*` or `rank*` under its label, and of `mc*` what its driver could not place.

    Where the driver is older and shows neither, rows and channels stand for modules.
    """

    name = "edac"

    def read(self, root: Path) -> Reading:
        place = root / "sys/devices/system/edac/mc"
        controllers = sorted(place.glob("mc[0-9]*"))
        if not controllers:
            return Reading(why_not=f"no memory controller in {place}: no EDAC driver, or a virtual machine")
        counts: dict[Key, float] = {}
        silent: dict[Key, str] = {}
        ages: dict[str, float] = {}
        for controller in controllers:
            own = _modules(controller) or _rows(controller)
            for signal, kind in (("corrected", "ce"), ("uncorrected", "ue")):
                # A controller counts each error of its modules, too; told twice it would look like two.
                placed = any(key[1] == signal for key in own)
                unplaced = read_int(controller / f"{kind}_noinfo_count") if placed else None
                count = read_int(controller / f"{kind}_count") if unplaced is None else unplaced
                if count is None:
                    silent[controller.name, signal] = f"{controller / f'{kind}_count'} is not readable"
                else:
                    own[controller.name, signal] = count
            counts |= own
            if (age := read_int(controller / "seconds_since_reset")) is not None:
                ages |= dict.fromkeys((entity for entity, _ in own), float(age))
        if not counts:
            return Reading(why_not=f"{place} has controllers, and none shows a count")
        return Reading(counts, silent=silent, ages=ages)


def _modules(controller: Path) -> dict[Key, float]:
    found: dict[Key, float] = {}
    modules = sorted([*controller.glob("dimm[0-9]*"), *controller.glob("rank[0-9]*")])
    labels = {module: read(module / "dimm_label") or module.name for module in modules}
    known = Counter(labels.values())
    for module, label in labels.items():
        # A board without labels of its own may give one to several. Each has its module's name then, the first too:
        # when a module leaves, none takes over the counts of another.
        entity = f"{controller.name} {label}" if known[label] == 1 else f"{controller.name} {label} {module.name}"
        for signal, file in (("corrected", "dimm_ce_count"), ("uncorrected", "dimm_ue_count")):
            if (count := read_int(module / file)) is not None:
                found[entity, signal] = count
    return found


def _rows(controller: Path) -> dict[Key, float]:
    """Corrected errors by channel, uncorrected ones by row, which is as exact as the kernel counts them."""
    found: dict[Key, float] = {}
    for row in sorted(controller.glob("csrow[0-9]*")):
        for channel in sorted(row.glob("ch[0-9]*_ce_count")):
            label = read(row / channel.name.replace("_ce_count", "_dimm_label")) or channel.name.partition("_")[0]
            if (count := read_int(channel)) is not None:
                found[f"{controller.name} {row.name} {label}", "corrected"] = count
        if (count := read_int(row / "ue_count")) is not None:
            found[f"{controller.name} {row.name}", "uncorrected"] = count
    return found
