"""The cards of a device, as checks of a node know them."""

from __future__ import annotations

from genqual.devices.base import Device
from genqual.devices.cards import Cards
from genqual.health.checks.base import CardPlace
from genqual.health.counters import pci


def cards_of(device: Device) -> tuple[CardPlace, ...]:
    """Every usable card of `device`, by the name that its counters have, too; none of a processor."""
    if not isinstance(device, Cards):
        return ()
    return tuple(
        CardPlace(
            f"card {card.number}" if card.bus is None else pci.entity(card.bus),
            device.torch_device,
            device.kind(card),
            device.variable,
            placement,
        )
        for card, placement in device.each()
    )
