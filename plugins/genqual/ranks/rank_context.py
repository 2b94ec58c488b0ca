"""Where one rank stands, and where it reports to. The standard library only: it is made before NumPy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO


@dataclass(frozen=True)
class RankContext:
    """Where this rank stands, and where it reports to."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    cores: tuple[int, ...]
    host: str
    port: int
    key: bytes
    stacks: IO[str]
    ahead: str | None  # the module to import before pytest asks for anything: this group was begun early
