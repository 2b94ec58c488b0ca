"""Parameters of one layer at a time, and tables of a vocabulary in blocks: bounded memory. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64, I64, Weights
from genqual.errors import BadInput
from genqual.models.ggufread import GgufTensors
from genqual.models.quantised.checkpoint import Dequantised
from genqual.models.safetensor import Tensors

BLOCK: Final = 4_000_000
"""Weights that are widened at once: 32 MB in float64, whatever the size of a matrix."""


class Window(Weights):
    """As `Weights`, but what was given out stays only until `release`, and `read` counts the weights that were read.

    `tables`, the embedding and the head (vocabulary, hidden), are never whole in memory: they are given out as a
    `Table`.
    """

    def __init__(self, whole: Weights, *, tables: Collection[str] = (), block: int = BLOCK) -> None:
        self._arrays, self._shapes, self._names = whole._arrays, whole._shapes, whole._names
        self._tables, self._block, self._kept, self.read = frozenset(tables), block, {}, 0

    def __getitem__(self, name: str) -> F64:
        if name in self._kept:
            return self._kept[name]
        if name in self._tables:
            return cast(F64, Table(self, name, self._shapes[name]))
        shape = self._shapes[name]
        whole = np.empty(shape)
        for start, stop in self.blocks(shape):
            whole[start:stop] = self.rows(name, start, stop)
        self._kept[name] = whole
        return whole

    def release(self) -> None:
        """Forget what was given out."""
        self._kept.clear()

    def blocks(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """(first row, one behind the last) of each block of a parameter of `shape`."""
        # A multiple of what BLAS kernels take at once, so that no row of a block is computed as a remainder.
        rows = max(64, self._block // max(1, int(np.prod(shape[1:]))) // 64 * 64)
        return [(start, min(start + rows, shape[0])) for start in range(0, shape[0], rows)]

    def rows(self, name: str, start: int, stop: int) -> F64:
        """Rows `start` to `stop` of a parameter, in float64."""
        part = part_of(self._arrays, self._names[name], self._shapes[name], start, stop)
        self.read += part.size
        return np.asarray(part, dtype=np.float64)


class Table:
    """A (vocabulary, hidden) parameter that is read where it is used: `table[ids]`, and `x @ table.T` in blocks."""

    # Tells NumPy's arrays to leave `x @ table.T` to __rmatmul__.
    __array_ufunc__ = None

    def __init__(self, window: Window, name: str, shape: tuple[int, ...]) -> None:
        self._window, self._name, self.shape = window, name, shape

    @property
    def T(self) -> Table:  # noqa: N802 - as NumPy calls it; only ever the right side of a product
        return self

    def __getitem__(self, ids: I64) -> F64:
        return np.concatenate([self._window.rows(self._name, int(i), int(i) + 1) for i in ids])

    def __rmatmul__(self, x: F64) -> F64:
        out = np.empty((len(x), self.shape[0]))
        for start, stop in self._window.blocks(self.shape):
            out[:, start:stop] = x @ self._window.rows(self._name, start, stop).T
        return out


def part_of(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...], start: int, stop: int
) -> NDArray[Any]:
    """Rows `start` to `stop` of `arrays[name]`, which has to have `shape`: of a file, only these are read."""
    if isinstance(arrays, Tensors | Dequantised | GgufTensors):
        return arrays.rows(name, shape, start, stop)
    array = arrays[name]
    if array.shape != shape:
        raise BadInput(f"{name} has shape {array.shape}, the configuration wants {shape}")
    return array[start:stop]
