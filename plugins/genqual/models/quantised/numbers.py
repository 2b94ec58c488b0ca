"""Integers out of packed words, and scales spread over what they scale. Pure: NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def bits_of(words: NDArray[np.int32], bits: int, count: int) -> I32:
    """`count` unsigned integers of `bits` each, packed without gaps along the last axis of 32-bit `words`, low first.

    (..., words) -> (..., count). An integer may lie across two words, as those of 3 bits do.
    """
    stream = np.unpackbits(
        np.ascontiguousarray(words, dtype="<i4").view(np.uint8),
        axis=-1,
        count=count * bits,
        bitorder="little",
    )
    apart = stream.reshape(*words.shape[:-1], count, bits)
    values = np.zeros(apart.shape[:-1], dtype=np.int32)
    for bit in range(bits):
        values |= apart[..., bit].astype(np.int32) << bit
    return values


def words_for(count: int, bits: int) -> int:
    """32-bit words that hold `count` integers of `bits` without gaps."""
    return -(-count * bits // 32)


def spread(scale: NDArray[Any], shape: tuple[int, ...], block: tuple[int, int]) -> NDArray[Any]:
    """`scale` (..., rows / block, columns / block) repeated to `shape`; blocks at the edges may be cut."""
    rows, columns = shape[-2:]
    whole = scale
    if block[0] > 1:
        whole = np.repeat(whole, block[0], axis=-2)[..., :rows, :]
    if block[1] > 1:
        whole = np.repeat(whole, block[1], axis=-1)[..., :columns]
    return whole


def grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """The shape of the scales of a weight of `shape`, one for each block."""
    return (*shape[:-2], -(-shape[-2] // block[0]), -(-shape[-1] // block[1]))
