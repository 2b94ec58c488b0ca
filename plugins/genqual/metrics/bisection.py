"""The largest batch that fits, by bisection. Pure: what is tried is a function; no torch, no pytest, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from genqual.errors import BadInput


@dataclass(frozen=True, slots=True)
class Capacity:
    """`largest` rows fit (0: not even one); `capped` when nothing larger was tried; `tried` in the order of trying."""

    largest: int
    capped: bool
    tried: tuple[tuple[int, bool], ...]


def search(fits: Callable[[int], bool], most: int) -> Capacity:
    """Double from one row until a batch does not fit or `most` rows do, then bisect to the row.

    Memory grows with the batch, so what fits is an interval from one; each size is tried once. Raises BadInput when
    `most` is below 1.
    """
    if most < 1:
        raise BadInput(f"largest_batch = {most}: the most rows to try must be at least 1")
    tried: list[tuple[int, bool]] = []

    def ask(rows: int) -> bool:
        tried.append((rows, fits(rows)))
        return tried[-1][1]

    low, high = 0, 1
    while ask(high):
        low = high
        if high == most:
            return Capacity(most, True, tuple(tried))
        high = min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ask(middle) else (low, middle)
    return Capacity(low, False, tuple(tried))
