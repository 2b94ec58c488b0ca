"""`habana_frameworks.torch.core`: importing it registers the device with torch."""

from __future__ import annotations

from typing import Any

from habana_frameworks.torch import hpu as hpu
from habana_frameworks.torch.card import CARD, switch_on


def mark_step(device_str: str = "", sync: bool = False) -> None:
    """End the graph of what was done so far."""
    CARD.mark_step()
    if sync:
        CARD.synchronize()


def hpu_set_env() -> None:
    """Prepare the environment of quantised inference."""


def hpu_initialize(model: Any = None, mark_only_scales_as_const: bool = False) -> None:
    """Mark a quantised model's constants."""


switch_on()
