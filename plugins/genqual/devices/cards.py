"""What accelerator cards have in common: counting, naming, choosing. Each kind says how to find them; no torch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genqual.cases import Json
from genqual.devices.base import HardwareIdentity, Placement, Presence
from genqual.devices.cpuinfo import slug
from genqual.devices.host import host_conditions, host_facts, memory_word
from genqual.devices.tool import TIMEOUT_S
from genqual.errors import BadInput


@dataclass(frozen=True, slots=True)
class Card:
    """One card. `number` is how the vendor's environment variable names it; `problem` why no rank can run on it."""

    number: int
    name: str | None
    memory_bytes: int | None = None
    driver: str | None = None
    uuid: str | None = None
    bus: str | None = None
    problem: str = ""
    more: dict[str, Json] = field(default_factory=dict)

    def as_json(self) -> dict[str, Json]:
        return {
            "number": self.number,
            "name": self.name,
            "memory_bytes": self.memory_bytes,
            "driver": self.driver,
            "uuid": self.uuid,
            "bus": self.bus,
            **self.more,
        }


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look found: all `cards`, by which `probe`, and `notes` on what could not be seen."""

    cards: tuple[Card, ...]
    probe: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a variable such as CUDA_VISIBLE_DEVICES leaves of the cards, in its order, and what it names in vain."""

    cards: tuple[Card, ...]
    hidden: int = 0
    note: str = ""


class Cards(ABC):
    """The part of `Device` that accelerators share. Every call looks anew, since a card can be lost at any time."""

    name: str
    vendor: str
    variable: str  # the environment variable by which a process is shown only some cards

    def __init__(self, root: Path = Path("/"), timeout_s: float = TIMEOUT_S) -> None:
        self._root = root
        self._timeout_s = timeout_s

    @abstractmethod
    def scan(self) -> Scan:
        """Find all cards of the host without opening one. Never raises."""

    @abstractmethod
    def shown(self, cards: Sequence[Card]) -> Choice:
        """Of `cards`, those that this process is shown, by the rules of the vendor."""

    @abstractmethod
    def environment(self, cards: Sequence[Card]) -> dict[str, str]:
        """What shows a process exactly `cards`, so that rank i finds its own under local index i."""

    @abstractmethod
    def readings(self) -> list[Json] | None:
        """Clocks, temperature, throttling of each card now; None where the vendor's tool cannot say."""

    def lease(self, card: Card) -> str:
        """The name of a card for as long as a group holds it."""
        return f"{self.name}:{card.number}"

    def kind(self, card: Card) -> str:
        """The model of a card as a word of the class."""
        return slug(card.name or f"unknown {self.name}")

    def choose(self, cards: Sequence[Card], ranks: int, taken: frozenset[str]) -> list[Card]:
        """`ranks` of `cards`, those not in `taken` first, in the order shown."""
        best = sorted(cards, key=lambda card: self.lease(card) in taken)[:ranks]
        return [card for card in cards if card in best]

    def probe(self) -> Presence:
        scan = self.scan()
        choice = self._usable(scan)
        return Presence(len(choice.cards), scan.probe, self._found(scan, choice))

    def identity(self) -> HardwareIdentity:
        """Raises BadInput where no card can be used: there is no hardware to name."""
        scan = self.scan()
        choice = self._usable(scan)
        if not choice.cards:
            raise BadInput(f"this host has 0 {self.name} cards: {self._found(scan, choice)}; found by {scan.probe}")
        kinds = sorted({self.kind(card) for card in choice.cards})
        sizes = [card.memory_bytes for card in choice.cards if card.memory_bytes is not None]
        memory = memory_word(min(sizes) if sizes else None)
        cards: list[Json] = [card.as_json() for card in choice.cards]
        drivers: list[Json] = [*sorted({card.driver for card in choice.cards if card.driver})]
        facts: dict[str, Json] = {
            **host_facts(self._root),
            "vendor": self.vendor,
            "cards": cards,
            "drivers": drivers,
            "cards_hidden": choice.hidden,
            "cards_unusable": len([card for card in scan.cards if card.problem]),
        }
        return HardwareIdentity(self.name, f"{'-'.join(kinds)}-{len(choice.cards)}x-{memory}", facts)

    def place(self, ranks: int, cores_per_rank: int, *, taken: frozenset[str] = frozenset()) -> Placement:
        """One card a rank, one environment for the group; `cores_per_rank` is read on CPU devices only."""
        if ranks < 1:
            raise BadInput(f"--ranks {ranks}: give at least 1 rank")
        scan = self.scan()
        choice = self._usable(scan)
        count = len(choice.cards)
        if ranks > count:
            raise BadInput(
                f"--ranks {ranks}: this host has {count} {self.name} card{'' if count == 1 else 's'} "
                f"({self._found(scan, choice)}); found by {scan.probe}. "
                + (f"Ask for at most {count} ranks." if count else "Mend that, or choose another device.")
            )
        cards = self.choose(choice.cards, ranks, taken)
        env = self.environment(cards)
        return Placement(
            env=tuple(dict(env) for _ in range(ranks)),
            lease=tuple(self.lease(card) for card in cards),
        )

    def each(self) -> list[tuple[Card, Placement]]:
        """Every card that can be used, in the order shown, and where one rank runs that has this card alone."""
        cards = self._usable(self.scan()).cards
        return [(one, Placement(env=(self.environment([one]),), lease=(self.lease(one),))) for one in cards]

    def conditions(self) -> dict[str, Json]:
        """The host's conditions, and `cards`: one reading each, or null."""
        return {**host_conditions(self._root), "cards": self.readings()}

    def _usable(self, scan: Scan) -> Choice:
        choice = self.shown(scan.cards)
        return Choice(tuple(card for card in choice.cards if not card.problem), choice.hidden, choice.note)

    def _found(self, scan: Scan, choice: Choice) -> str:
        """One line: what is here, what is hidden, what is broken, what could not be seen."""
        kinds = sorted({card.name or "unknown" for card in choice.cards})
        drivers = sorted({card.driver for card in choice.cards if card.driver})
        parts = [f"{len(choice.cards)} x {' and '.join(kinds)}" if kinds else "no usable card"]
        if drivers:
            parts.append(f"driver {' and '.join(drivers)}")
        if choice.hidden:
            parts.append(f"{choice.hidden} hidden by {self.variable}={os.environ.get(self.variable, '')}")
        parts += [
            f"card {card.number} ({card.name or 'unknown'}): {card.problem}" for card in scan.cards if card.problem
        ]
        return "; ".join([*parts, *([choice.note] if choice.note else []), *scan.notes])
