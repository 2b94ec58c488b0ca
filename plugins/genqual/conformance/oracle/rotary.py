"""Rotary positions: frequencies of each published kind, and the rotation. Arrays in, arrays out; no configuration.

Sources: Su et al. 2021 (rotary positions), Chen et al. 2023 (linear interpolation), bloc97 2023 and emozilla 2023
(dynamic NTK), Peng et al. 2023 (YaRN, its ramp and its magnitude), Ding et al. 2024 (longrope), Llama 3.1's scaling as
published with its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log, pi, sqrt

import numpy as np

from genqual.conformance.oracle.core import F64


@dataclass(frozen=True)
class Rotary:
    """Rotates the first 2 x pairs of a head's width, the rest stays.

    `frequencies(length)` gives radians a position of each pair, (pairs,), for a text of `length` tokens; `magnitude`
    multiplies cosine and sine (YaRN, longrope). Pairs are (i, i + pairs), or (2i, 2i + 1) when `interleaved`.
    `settled_length`: up to which length the frequencies are the same; None: always.
    """

    frequencies: Callable[[int], F64]
    magnitude: float = 1.0
    interleaved: bool = False
    settled_length: int | None = None

    def __call__(self, x: F64, first: int) -> F64:
        """`x` (heads, tokens, width), whose first token stands at position `first` of a text that ends with `x`."""
        frequencies = self.frequencies(first + x.shape[1])
        angles = np.arange(first, first + x.shape[1])[:, None] * frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        if self.magnitude != 1.0:
            cos, sin = cos * self.magnitude, sin * self.magnitude
        turned, rest = x[..., : 2 * len(frequencies)], x[..., 2 * len(frequencies) :]
        if self.interleaved:
            low, high = turned[..., 0::2], turned[..., 1::2]
            pairs = np.stack([low * cos - high * sin, high * cos + low * sin], axis=-1)
            out: F64 = pairs.reshape(turned.shape)
        else:
            low, high = np.split(turned, 2, axis=-1)
            out = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
        return np.concatenate([out, rest], axis=-1) if rest.shape[-1] else out


def fixed(frequencies: F64) -> Callable[[int], F64]:
    """The same frequencies whatever the length."""
    return lambda _length: frequencies


def plain(theta: float, width: int) -> F64:
    """theta^(-2i / width) of each pair i, (width / 2,)."""
    return np.asarray(theta ** -(np.arange(0, width, 2) / width), dtype=np.float64)


def linear(theta: float, width: int, factor: float) -> F64:
    """Positions divided by `factor`."""
    return plain(theta, width) / factor


def llama3(theta: float, width: int, factor: float, slow: float, fast: float, original: float) -> F64:
    """Pairs of less than `slow` turns within `original` tokens are divided by `factor`, of more than `fast` kept."""
    frequencies = plain(theta, width)
    turns = original * frequencies / (2 * np.pi)
    share = np.clip((turns - slow) / (fast - slow), 0.0, 1.0)  # 0: stretched by the factor, 1: as it was
    return np.asarray((1 - share) * frequencies / factor + share * frequencies, dtype=np.float64)


def dynamic(theta: float, width: int, factor: float, original: int) -> Callable[[int], F64]:
    """The base grows with a text that is longer than `original`."""

    def frequencies(length: int) -> F64:
        grown = factor * max(length, original) / original - (factor - 1)
        return plain(theta * grown ** (width / (width - 2)), width)

    return frequencies


def longrope(theta: float, width: int, short: F64, long: F64, original: int) -> Callable[[int], F64]:
    """Each pair divided by its own factor: `short` (pairs,) up to `original` tokens, `long` (pairs,) beyond."""
    frequencies = plain(theta, width)
    return lambda length: frequencies / (long if length > original else short)


def longrope_magnitude(factor: float, original: int) -> float:
    """By how much longrope enlarges cosine and sine."""
    return 1.0 if factor <= 1.0 else sqrt(1 + log(factor) / log(original))


def yarn(
    theta: float, width: int, factor: float, original: int, fast: float, slow: float, *, truncate: bool = True
) -> F64:
    """Pairs with more than `fast` turns within `original` tokens stay, with less than `slow` are divided by `factor`.

    Between them a linear ramp over the pairs; its ends are rounded outwards to whole pairs when `truncate`.
    """

    def pair_of(turns: float) -> float:
        return width * log(original / (turns * 2 * pi)) / (2 * log(theta))

    low, high = pair_of(fast), pair_of(slow)
    if truncate:
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001  # as YaRN's own code does
    stretched = np.clip((np.arange(width // 2) - low) / (high - low), 0.0, 1.0)
    frequencies = plain(theta, width)
    return np.asarray(stretched * frequencies / factor + (1 - stretched) * frequencies, dtype=np.float64)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """By how much YaRN enlarges cosine and sine: 0.1 x `weight` x ln(factor) + 1."""
    return 1.0 if factor <= 1.0 else 0.1 * weight * log(factor) + 1.0
