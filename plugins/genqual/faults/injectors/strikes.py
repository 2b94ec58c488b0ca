"""When a fault strikes: at pass `after`, and then again about every `every` passes. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from genqual.cases import Json

MOST: Final = 10_000  # strikes that are told
_PASSES: list[int] = []  # of this process: it has one engine, and mostly one fault


@dataclass
class Strikes:
    """Counts forward passes. The gaps between strikes are drawn by `element`, 1 to 2 `every` - 1 passes long.

    `every` 0 strikes once. Even gaps would let a fault fall into the same steps of a repeated request for ever.
    """

    element: int
    after: int
    every: int = 0
    _passes: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random, self._next, self._struck = np.random.default_rng(self.element), self.after, 0
        _PASSES.clear()

    def due(self) -> bool:
        """Count one pass; whether the fault strikes in it."""
        now, self._passes = self._passes, self._passes + 1
        if now != self._next:
            return False
        self._next = now + int(self._random.integers(1, 2 * self.every)) if self.every else -1
        if len(_PASSES) < MOST:
            _PASSES.append(now)
        self._struck += 1
        return True

    def place(self) -> int:
        """The number that says which element is hit: `element` by the first strike, then another one each time."""
        return self.element if self._struck == 1 else int(self._random.integers(1 << 30))


def passes(engine: Any) -> dict[str, Json]:
    """The passes in which the fault in this rank has struck since it was put in; for `invoke`."""
    return {"passes": list(_PASSES)}
