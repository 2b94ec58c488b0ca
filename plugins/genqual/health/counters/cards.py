"""What accelerator cards counted, through their vendors' libraries. No card is acquired, and no torch is imported."""

from __future__ import annotations

from pathlib import Path

from genqual.devices import hlml_errors, nvml_errors
from genqual.devices.counted import Counted
from genqual.devices.tool import ToolFailed
from genqual.health.counters import pci
from genqual.health.counters.base import Key, Reading


class Nvml:
    """ECC errors, remapped rows, PCIe replays, throttling and NVLinks of each NVIDIA GPU, by its address."""

    name = "nvml"

    def read(self, root: Path) -> Reading:
        try:
            return _reading(nvml_errors.errors())
        except ToolFailed as error:
            return Reading(why_not=str(error))


class Hlml:
    """ECC errors, replaced rows, PCIe replays and throttling of each Gaudi, by its address."""

    name = "hlml"

    def read(self, root: Path) -> Reading:
        try:
            return _reading(hlml_errors.errors(root))
        except ToolFailed as error:
            return Reading(why_not=str(error))


def _reading(by_card: dict[str, dict[str, Counted]]) -> Reading:
    counts: dict[Key, float] = {}
    levels: dict[Key, float] = {}
    silent: dict[Key, str] = {}
    for bus, parts in by_card.items():
        for link, own in parts.items():
            entity = f"{pci.entity(bus)} {link}".strip()
            counts |= {(entity, signal): float(count) for signal, count in own.counts.items()}
            levels |= {(entity, signal): float(level) for signal, level in own.levels.items()}
            silent |= {(entity, signal): why for signal, why in own.silent.items()}
    if not counts and not levels:
        return Reading(why_not=f"{len(by_card)} cards, and none shows an error counter")
    return Reading(counts, levels=levels, silent=silent)
