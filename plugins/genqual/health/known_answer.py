"""Products whose every bit is known: integers so small that each sum is exact in the dtype. Pure: NumPy only.

In fp32 every partial sum of products of integers up to 3 stays below 2^24. In bf16 (fp16) the result of at most 256
(2048) products of -1, 0 and 1 is an integer that the dtype holds exactly, in whatever order a kernel adds; where a
model's products are longer, all but so many factors of a row are zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

_EXACT: Final = {"fp32": (2**24, 3), "bf16": (256, 1), "fp16": (2048, 1)}
"""Per dtype: up to where it holds every integer, and the largest factor that is used."""
_WIDEST: Final = 1024  # columns of a tile made of a model's sizes: the exact product is made on the host


@dataclass(frozen=True, slots=True)
class Tile:
    """A product (rows, inner) x (inner, columns) of the sizes that generation multiplies.

    `terms` of the `inner` factors of a row are not zero; 0 stands for all.
    """

    name: str
    rows: int
    inner: int
    columns: int
    terms: int = 0

    def largest(self, dtype: str) -> int:
        """The largest factor with which every sum is exact in `dtype`. Raises ValueError where there is none."""
        limit, factor = _EXACT[dtype]
        terms = self.terms or self.inner
        if terms * factor * factor <= limit:
            return factor
        raise ValueError(f"{self.name}: sums of {terms} products are not exact in {dtype}")


TILES: Final = {
    "fp32": (
        Tile("decode, one row", 1, 512, 512),
        Tile("decode, four rows", 4, 512, 1408),
        Tile("prefill, 128 tokens", 128, 512, 512),
    ),
    "bf16": (
        Tile("decode, one row", 1, 256, 512),
        Tile("decode, four rows", 4, 256, 1408),
        Tile("prefill, 128 tokens", 128, 256, 512),
    ),
}
"""Per dtype: a row of a matrix-vector product, a small batch, and a matrix that fills the matrix units."""


def factors(tile: Tile, dtype: str, seed: int) -> tuple[I64, I64]:
    """Integers (rows, inner) and (inner, columns) that are the same on every host, of SHAKE-128."""
    most = tile.largest(dtype)
    sizes = (tile.rows * tile.inner, tile.inner * tile.columns)
    stream = hashlib.shake_128(f"genqual/known/{tile.name}/{dtype}/{seed}".encode()).digest(sum(sizes))
    raw = np.frombuffer(stream, dtype=np.uint8).astype(np.int64) % (2 * most + 1) - most
    left, right = raw[: sizes[0]].reshape(tile.rows, tile.inner), raw[sizes[0] :].reshape(tile.inner, tile.columns)
    if tile.terms:
        kept = np.argsort(_order(tile, seed), axis=1, kind="stable")[:, : tile.terms]
        thin = np.zeros_like(left)
        np.put_along_axis(thin, kept, np.take_along_axis(left, kept, axis=1), axis=1)
        left = thin
    return left, right


def _order(tile: Tile, seed: int) -> I64:
    """(rows, inner) numbers whose order says which factors of a row stay; the same on every host."""
    stream = hashlib.shake_128(f"genqual/terms/{tile.name}/{seed}".encode()).digest(4 * tile.rows * tile.inner)
    return np.frombuffer(stream, dtype="<u4").astype(np.int64).reshape(tile.rows, tile.inner)


def model_tiles(sizes: Iterable[tuple[int, int]], dtype: str, rows: Iterable[int]) -> tuple[Tile, ...]:
    """A tile for each distinct product of a model's linear layers, `sizes` (inputs, outputs), and each count of rows.

    Raises ValueError where `dtype` has no known answers.
    """
    if dtype not in _EXACT:
        raise ValueError(f"{dtype} has no products with known answers; there are {', '.join(_EXACT)}")
    limit, factor = _EXACT[dtype]
    most = limit // (factor * factor)
    return tuple(
        Tile(f"{inner} x {columns}, {count} rows", count, inner, min(columns, _WIDEST), most if inner > most else 0)
        for inner, columns in sorted(set(sizes))
        for count in sorted(set(rows))
    )


def product(left: I64, right: I64) -> I64:
    """The exact product, in integers: no floating point takes part."""
    return np.asarray(left @ right)


@dataclass(frozen=True, slots=True)
class WrongProduct:
    """One wrong product: where the first wrong number stood, what it was, and in how many of the repeats it came."""

    tile: str
    dtype: str
    count: int  # products of this process before it
    row: int
    column: int
    got: float
    expected: int
    wrong: int  # numbers that were wrong
    again: int
    repeats: int


def first_wrong(got: NDArray[np.float64], expected: I64) -> tuple[int, int, int] | None:
    """(row, column, how many) of what is not exactly as expected, NaN included; None where all is."""
    bad = ~(got == expected)
    if not bad.any():
        return None
    row, column = (int(index) for index in np.argwhere(bad)[0])
    return row, column, int(bad.sum())


def rate_bounds(events: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson bounds of the rate of a wrong product; without an event about (0, 3 / trials) at 95 %.

    Raises ValueError where nothing was tried: no rate is known then.
    """
    if trials < 1 or not 0 <= events <= trials:
        raise ValueError(f"{events} events of {trials} trials say nothing of a rate")
    tail = (1.0 - confidence) / 2.0 if events else 1.0 - confidence
    low = 0.0 if events == 0 else _quantile(tail, events, trials - events + 1)
    high = 1.0 if events == trials else _quantile(1.0 - tail, events + 1, trials - events)
    return low, high


def _quantile(level: float, a: int, b: int) -> float:
    """The quantile of a Beta(a, b) distribution of whole a and b, by bisection of its binomial tail."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _beta(middle, a, b) < level else (low, middle)
    return (low + high) / 2.0


def _beta(x: float, a: int, b: int) -> float:
    """P(Beta(a, b) <= x) = P(Binomial(a + b - 1, x) >= a), summed from the small side, in logarithms."""
    n = a + b - 1
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    k = np.arange(0, a)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - k[:-1]) / (k[:-1] + 1)))])
    return float(1.0 - np.exp(log_choose + k * np.log(x) + (n - k) * np.log1p(-x)).sum())
