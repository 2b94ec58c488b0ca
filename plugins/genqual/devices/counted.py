"""What a card says that it counted, and what it does not say. Pure."""

from __future__ import annotations

from collections.abc import Callable
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


def part(answer: tuple[Any, str], choose: Callable[[Any], Any]) -> tuple[Any, str]:
    """One value of an answer of several; the reason stays where there is no answer."""
    value, why = answer
    return (None, why) if value is None else (choose(value), "")
