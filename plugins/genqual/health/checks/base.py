"""What a check is given and what it must say. No check decides about the node."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from genqual.devices.base import Placement
from genqual.health.finding import Finding, Outcome, Severity


@dataclass(frozen=True, slots=True)
class CardPlace:
    """One accelerator card: its name in findings, torch's word for it, its model, and where a rank has it alone."""

    entity: str
    torch_device: str
    kind: str
    variable: str  # the environment variable that shows a process some cards only
    placement: Placement

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that is to see this card only."""
        return {**os.environ, **self.placement.env[0]}


@dataclass(frozen=True, slots=True)
class Node:
    """What is checked: the device by its mark, its cores or its cards, and where files may be put.

    Where there are `cards`, they are what is checked, and `cores` are those of their host.
    """

    device: str
    cores: tuple[int, ...]
    work: Path
    root: Path = Path("/")
    say: Callable[[str], None] = field(default=lambda text: None)
    cards: tuple[CardPlace, ...] = ()

    @property
    def entity(self) -> str:
        """What a finding on the whole of it names: its only card, else the device."""
        return self.cards[0].entity if len(self.cards) == 1 else self.device

    def each_card(self) -> list[Node]:
        """This node with each card alone, in a folder of its own."""
        return [
            replace(self, cards=(card,), work=self.work / f"card{number}") for number, card in enumerate(self.cards)
        ]


class Check(Protocol):
    """One check. `seconds` is what it takes at least; more time finds more where `stretches`."""

    name: str
    summary: str
    required: bool
    seconds: float
    stretches: bool
    privileges: str

    def run(self, node: Node, seconds: float) -> Iterable[Finding]:
        """Findings on each entity. What could not be measured is UNKNOWN or UNAVAILABLE, never an exception."""
        ...


def unknown(check: Check, entity: str, why: str) -> Finding:
    """What is said of an entity that `check` got no signal of."""
    return Finding(
        check=check.name, entity=entity, outcome=Outcome.UNKNOWN, required=check.required, severity=Severity.DEGRADED,
        action="run this check again; when it fails again, the command in its finding shows more", evidence=why,
    )  # fmt: skip
