"""What a check is given and what it must say. No check decides about the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from genqual.health.finding import Finding


@dataclass(frozen=True, slots=True)
class Node:
    """What is checked: the device by its mark, the cores that may be used, and where files may be put."""

    device: str
    cores: tuple[int, ...]
    work: Path
    root: Path = Path("/")
    say: Callable[[str], None] = field(default=lambda text: None)


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
