"""Floats of 8 and 4 bits as float32, exactly: each of their few patterns is looked up. Pure: NumPy only.

Formats: Micikevicius et al. 2022 (E4M3, E5M2), and the OCP Microscaling specification 1.0 (E2M1, E8M0).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

E2M1: Final[F32] = np.array(
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], dtype=np.float32
)
"""The sixteen values of a 4-bit float, by pattern: a sign, two bits of exponent, one of mantissa."""


@cache
def table(dtype: str) -> F32:
    """The 256 values (256,) of a safetensors dtype of 8 bits: F8_E4M3, F8_E5M2 or F8_E8M0."""
    patterns = np.arange(256)
    if dtype == "F8_E8M0":  # an exponent and nothing else; its last pattern is not a number
        exact = np.where(patterns == 255, np.nan, np.ldexp(1.0, patterns - 127))
    else:
        mantissa = {"F8_E4M3": 3, "F8_E5M2": 2}[dtype]
        bias = {"F8_E4M3": 7, "F8_E5M2": 15}[dtype]
        exponent, fraction = (patterns & 127) >> mantissa, (patterns & ((1 << mantissa) - 1)) / (1 << mantissa)
        normal = np.ldexp(1.0 + fraction, exponent - bias)
        exact = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), normal)
        if dtype == "F8_E4M3":  # has no infinity: one pattern is not a number, the others of that exponent are numbers
            exact[patterns & 127 == 127] = np.nan
        else:
            exact[patterns & 127 == 124], exact[patterns & 127 > 124] = np.inf, np.nan
        exact = np.where(patterns >= 128, -exact, exact)
    return exact.astype(np.float32)


def widened(raw: NDArray[np.uint8], dtype: str) -> F32:
    """`raw` (any shape) of the safetensors dtype `dtype` as float32."""
    values: F32 = table(dtype)[raw]
    return values


def nibbles(packed: NDArray[Any]) -> NDArray[np.uint8]:
    """The 4-bit patterns of `packed` bytes (..., n) as (..., 2 n): of each byte the low half first."""
    out = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), dtype=np.uint8)
    out[..., 0::2], out[..., 1::2] = packed & 0xF, packed >> 4
    return out


def fp4(packed: NDArray[np.uint8]) -> F32:
    """Two 4-bit floats of each byte of `packed` (..., n) as float32 (..., 2 n)."""
    values: F32 = E2M1[nibbles(packed)]
    return values
