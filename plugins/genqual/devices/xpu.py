"""Intel data centre GPUs as a device. Asks xpu-smi or /sys/class/drm; opens no render node and imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from genqual.cases import Json
from genqual.devices.cards import Card, Cards, Choice, Scan
from genqual.devices.files import read, whole
from genqual.devices.tool import ToolFailed, run_tool

# The graphics inside an Intel processor always sits here.
INTEGRATED = "0000:00:02.0"


class Xpu(Cards):
    """Intel GPUs. A card is a place, both tiles of a two-tile card together; `backend` is built into torch from 2.8."""

    name = "xpu"
    vendor = "Intel"
    torch_device = "xpu"
    backend = "xccl"
    native_dtype = "bf16"
    exclusive = False
    summary = "Intel data centre GPUs, one rank on each card"
    variable = "ZE_AFFINITY_MASK"

    def scan(self) -> Scan:
        probe = ["xpu-smi", "discovery", "-j"]
        try:
            cards = _listed(self._json(probe))
        except ToolFailed as error:
            probe += ["and", str(self._root / "sys/class/drm")]
            return Scan(_numbered(self._render_nodes()), " ".join(probe), (str(error),))
        return Scan(_numbered(cards), " ".join(probe))

    def shown(self, cards: Sequence[Card]) -> Choice:
        """Level Zero's mask read as card numbers: `1`, or `1.0` for a tile, shows card 1."""
        value = os.environ.get(self.variable, "").strip()
        if not value:
            return Choice(tuple(cards))
        words = [word.strip().partition(".")[0] for word in value.split(",")]
        found = tuple(card for card in cards if str(card.number) in words)
        vain = sorted({word for word in words if word not in {str(card.number) for card in found}})
        note = f"{self.variable}={value} names cards that are not here: {', '.join(vain)}" if vain else ""
        return Choice(found, len(cards) - len(found), note)

    def environment(self, cards: Sequence[Card]) -> dict[str, str]:
        """COMPOSITE, so that the mask counts cards and not tiles; in PCI order, as the scan numbers them."""
        return {
            self.variable: ",".join(str(card.number) for card in cards),
            "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE",
            "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
        }

    def lease(self, card: Card) -> str:
        return f"xpu:{card.bus or card.number}"

    def readings(self) -> list[Json] | None:
        """Not asked yet: xpu-smi measures for a second before it answers, which is not cheap."""
        return None

    def _json(self, argv: Sequence[str]) -> list[Any]:
        """The answer of xpu-smi. Raises ToolFailed, with the tool's own words where it has any."""
        answer = run_tool(argv, self._timeout_s, unset=self.variable)
        try:
            said = json.loads(answer.text)
        except ValueError:
            raise ToolFailed(answer.complaint or f"{' '.join(argv)} did not print JSON") from None
        if not isinstance(said, dict) or not isinstance(said.get("device_list"), list):
            error = said.get("error") if isinstance(said, dict) else None
            raise ToolFailed(f"{' '.join(argv)}: {error or 'no device_list in its answer'}")
        devices: list[Any] = said["device_list"]
        return devices

    def _render_nodes(self) -> list[Card]:
        """Intel display devices that have a render node, from the kernel alone: no name, no memory size."""
        cards = []
        for node in sorted((self._root / "sys/class/drm").glob("renderD*")):
            vendor, kind = read(node / "device/vendor"), read(node / "device/class")
            # PCI class 03 is display; other Intel devices such as NPUs are not.
            if vendor != "0x8086" or not (kind or "").startswith("0x03"):
                continue
            device = self._root / "dev/dri" / node.name
            slot = _slot(read(node / "device/uevent"))
            cards.append(
                Card(
                    number=0,
                    name=f"intel-gpu-{(read(node / 'device/device') or 'unknown').removeprefix('0x')}",
                    bus=slot,
                    problem="" if os.access(device, os.R_OK | os.W_OK) else f"no access to {device}: group render?",
                )
            )
        return cards


def _numbered(cards: Sequence[Card]) -> tuple[Card, ...]:
    """Cards in PCI order, which is Level Zero's when asked for; the integrated one keeps its number, not its place."""
    ordered = sorted(cards, key=lambda card: card.bus or "")
    return tuple(
        replace(card, number=number, problem="integrated graphics" if card.bus == INTEGRATED else card.problem)
        for number, card in enumerate(ordered)
    )


def _listed(devices: list[Any]) -> list[Card]:
    """Physical GPUs of a discovery; its virtual functions only where there is nothing else, as inside a guest."""
    gpus = [d for d in devices if isinstance(d, dict) and d.get("device_type", "GPU") == "GPU"]
    physical = [d for d in gpus if d.get("device_function_type", "physical") == "physical"]
    return [
        Card(
            number=0,
            name=str(d.get("device_name") or "") or None,
            # A number in some versions of the tool, a string in others, absent in most.
            memory_bytes=whole(str(d.get("memory_physical_size_byte", ""))),
            driver=str(d.get("driver_version") or "") or None,
            uuid=str(d.get("uuid") or "") or None,
            bus=str(d.get("pci_bdf_address") or "").lower() or None,
            more={"device_id": d.get("device_id"), "pci_device_id": d.get("pci_device_id")},
        )
        for d in physical or gpus
    ]


def _slot(uevent: str | None) -> str | None:
    for line in (uevent or "").splitlines():
        if line.startswith("PCI_SLOT_NAME="):
            return line.partition("=")[2].lower()
    return None
