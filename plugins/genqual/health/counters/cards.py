"""What accelerator cards counted, through their vendors' libraries. No card is acquired, and no torch is imported."""

from __future__ import annotations

from pathlib import Path

from genqual.devices import hlml, nvml
from genqual.devices.tool import ToolFailed
from genqual.health.counters.base import Reading


class Nvml:
    """ECC errors, remapped rows, PCIe replays and NVLink errors of each NVIDIA GPU, by its address."""

    name = "nvml"

    def read(self, root: Path) -> Reading:
        try:
            return _reading(nvml.errors())
        except ToolFailed as error:
            return Reading(why_not=str(error))


class Hlml:
    """ECC errors, replaced rows and PCIe replays of each Gaudi, by its address."""

    name = "hlml"

    def read(self, root: Path) -> Reading:
        try:
            return _reading(hlml.errors(root))
        except ToolFailed as error:
            return Reading(why_not=str(error))


def _reading(by_card: dict[str, dict[str, int]]) -> Reading:
    counts = {(card, signal): float(count) for card, own in by_card.items() for signal, count in own.items()}
    return Reading(counts) if counts else Reading(why_not=f"{len(by_card)} cards, and none shows an error counter")
