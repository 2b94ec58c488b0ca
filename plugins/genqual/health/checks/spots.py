"""Where a check puts a process of its own: on each core, or on each card."""

from __future__ import annotations

import os
from dataclasses import dataclass

from genqual.health.checks.base import Node


@dataclass(frozen=True, slots=True)
class Spot:
    """One core or card: its name in findings, the words that send `genqual.health.stress` there, its environment.

    Spots of one `kind` are siblings.
    """

    entity: str
    kind: str
    words: tuple[str, ...]
    environment: dict[str, str]


def spots(node: Node) -> list[Spot]:
    """The cards of `node` where it has any, else its cores."""
    if node.cards:
        return [Spot(card.entity, card.kind, ("--device", card.torch_device), card.environment) for card in node.cards]
    return [Spot(f"core {core}", "core", ("--core", str(core)), dict(os.environ)) for core in node.cores]
