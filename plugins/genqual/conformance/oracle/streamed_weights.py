"""Parameters of one layer at a time, matrices and tables in blocks: bounded memory. Pure: NumPy only."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64, I64, Weights
from genqual.conformance.oracle.streamed_rows import Together, Want
from genqual.errors import BadInput
from genqual.models.ggufread import GgufTensors
from genqual.models.quantised.checkpoint import Dequantised
from genqual.models.safetensor import Tensors

BLOCK: Final = 1_000_000
"""Weights that are widened at once: 4 MB in float32, 8 in float64, so that caches have them while they are used."""


Single = Callable[[], AbstractContextManager[object]]
"""Within it, BLAS uses one thread: the workers, one a core, would wait for each other's otherwise."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Window(Weights):
    """As `Weights`, but what was given out stays only until `release`, and `read` counts the weights that were read.

    Matrices of linear layers, and `tables`, the embedding and the head (vocabulary, hidden), are never whole in memory:
    a `Matrix` or a `Table` is given out, and multiplied block by block. While `narrow` is set, products are computed in
    float32 and given back in float64; float32 holds every stored weight, so only their sums are rounded.
    """

    def __init__(
        self, whole: Weights, *, tables: Collection[str] = (), block: int = BLOCK, single: Single = nullcontext
    ) -> None:
        self._arrays, self._shapes, self._names = whole._arrays, whole._shapes, whole._names
        self._tables, self._block, self._kept, self.read = frozenset(tables), block, {}, 0
        self._together = Together(self._products, list(self._shapes).index)
        self.narrow = False
        # Whoever undoes a format keeps the last weight: one at a time. Rows of a file are read side by side.
        self._taking = nullcontext() if isinstance(self._arrays, Tensors) else Lock()
        self._single, self._workers = single, ThreadPoolExecutor(usable_cores())

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

    def matrix(self, name: str) -> F64:
        return cast(F64, Matrix(self, name, self._shapes[name]))

    def side_by_side(self, calls: Sequence[Callable[[], F64]]) -> list[F64]:
        """The results of `calls`; where they want the same matrix, it is read once for all of them."""
        return self._together.run(calls)

    def product(self, want: Want, x: F64) -> F64:
        """`x` (tokens, in) times a matrix."""
        return self._together.product(want, x)

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
        part = self._part(name, start, stop, np.float64)
        self.read += part.size
        return part

    def _products(self, want: Want, given: list[F64]) -> list[F64]:
        name, as_stored = want
        shape = self._shapes[name]
        dtype = np.float32 if self.narrow else np.float64
        # Exact products are a row's own, whatever stands beside it; narrow ones are checked later, and one for all.
        xs = [np.concatenate(given).astype(dtype)] if self.narrow else given
        out = [np.zeros((len(x), shape[1] if as_stored else shape[0]), dtype) for x in xs]

        def block(bounds: tuple[int, int]) -> list[NDArray[Any]]:
            start, stop = bounds
            part = self._part(name, start, stop, dtype)
            if as_stored:
                return [x[:, start:stop] @ part for x in xs]
            return [(part @ x.T).T if self.narrow else x @ part.T for x in xs]  # the former is fast for few rows

        blocks = self.blocks(shape)
        # Each worker reads, widens and multiplies its block, which its core's caches still have.
        with self._single():
            for (start, stop), products in zip(blocks, self._workers.map(block, blocks), strict=True):
                for y, product in zip(out, products, strict=True):
                    if as_stored:
                        y += product
                    else:
                        y[:, start:stop] = product
        self.read += int(np.prod(shape))
        if self.narrow:
            return [y.astype(np.float64) for y in np.split(out[0], np.cumsum([len(x) for x in given])[:-1])]
        return out

    def _part(self, name: str, start: int, stop: int, dtype: type[Any]) -> NDArray[Any]:
        with self._taking:
            part = part_of(self._arrays, self._names[name], self._shapes[name], start, stop)
        return np.asarray(part, dtype=dtype)


class Matrix:
    """A matrix of a linear layer that is read where it is used: `x @ matrix.T`, and `x @ matrix`."""

    # Tells NumPy's arrays to leave `x @ matrix` to __rmatmul__.
    __array_ufunc__ = None

    def __init__(self, window: Window, name: str, shape: tuple[int, ...], as_stored: bool = True) -> None:
        self._window, self._name, self._as_stored = window, name, as_stored
        self.shape = shape

    @property
    def T(self) -> Matrix:  # noqa: N802 - as NumPy calls it
        return Matrix(self._window, self._name, self.shape[::-1], not self._as_stored)

    def __rmatmul__(self, x: F64) -> F64:
        return self._window.product((self._name, self._as_stored), x)


class Table(Matrix):
    """A (vocabulary, hidden) parameter, of which rows are wanted as well: `table[ids]`."""

    def __getitem__(self, ids: I64) -> F64:
        return np.concatenate([self._window.rows(self._name, int(i), int(i) + 1) for i in ids])


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
