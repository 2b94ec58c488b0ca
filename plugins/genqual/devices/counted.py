"""What a card says that it counted, and what it does not say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counted:
    """Of one card, or of one link of it, by signal: counters, states (0 or 1), and why a signal is not told."""

    counts: dict[str, int] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)

    def count(self, signal: str, told: tuple[Any, str]) -> None:
        """Keep a counter, or the reason for which there is none."""
        self._keep(self.counts, signal, told)

    def level(self, signal: str, told: tuple[Any, str]) -> None:
        """Keep a state, or the reason for which there is none."""
        self._keep(self.levels, signal, told)

    def _keep(self, where: dict[str, int], signal: str, told: tuple[Any, str]) -> None:
        value, why = told
        if value is None:
            self.silent[signal] = why
        else:
            where[signal] = int(value)


def told(lib: Any, error: type[Exception], function: str, *arguments: Any) -> tuple[Any, str]:
    """(answer, "") of one query of a vendor's binding, or (None, why there is none)."""
    asked: Callable[..., Any] | None = getattr(lib, function, None)
    if asked is None:
        return None, f"the binding has no {function}"
    try:
        return asked(*arguments), ""
    except error as caught:
        return None, str(caught) or type(caught).__name__


def answering(lib: Any, error: type[Exception], prefix: str, *, pci: str, bus: str) -> Iterator[tuple[str, Any]]:
    """(bus id, handle) of each card that tells both; one that is lost is left out.

    `prefix` begins the names of the binding's functions, `pci` is the one whose answer has the bus id, as `bus`.
    """
    for index in range(getattr(lib, f"{prefix}DeviceGetCount")()):
        handle, _ = told(lib, error, f"{prefix}DeviceGetHandleByIndex", index)
        place = None if handle is None else told(lib, error, pci, handle)[0]
        if place is not None:
            address = getattr(place, bus)
            yield (address.decode() if isinstance(address, bytes) else str(address)), handle


def part(answer: tuple[Any, str], choose: Callable[[Any], Any]) -> tuple[Any, str]:
    """One value of an answer of several; the reason stays where there is no answer."""
    value, why = answer
    return (None, why) if value is None else (choose(value), "")
