"""Round float64 numbers as a narrow type holds them: bf16, fp16, int8 and e4m3 with a scale a row. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np

from genqual.conformance.oracle.core import F64
from genqual.models.quantised.inputs import InputRounding

Round: TypeAlias = Callable[[F64], F64]

_INT8: Final = 127.0
_E4M3: Final = 448.0
_E4M3_LEAST: Final = 2.0**-9  # the step of its subnormal numbers


def bf16(x: F64) -> F64:
    """`x` to the nearest bf16 numbers, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    cut = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    return np.asarray(cut.view(np.float32), dtype=np.float64)


def fp16(x: F64) -> F64:
    """`x` to the nearest fp16 numbers, infinite beyond 65504."""
    with np.errstate(over="ignore"):
        return np.asarray(x.astype(np.float16), dtype=np.float64)


def int8_rows(x: F64) -> F64:
    """`x` (..., n) to the nearest of 255 even steps, as wide as each row's largest number needs."""
    return _int8(x, _largest(x) / _INT8)


def e4m3_rows(x: F64) -> F64:
    """`x` (..., n) to the nearest e4m3 numbers times a scale that makes each row's largest number 448."""
    return _e4m3(x, _largest(x) / _E4M3)


def stored_rounding(how: InputRounding) -> Round:
    """What rounds (tokens, width) as a stored checkpoint declares it; a group at the edge may be cut."""
    nearest, most = (_int8, _INT8) if how.grid == "int8" else (_e4m3, _E4M3)

    def rounded(x: F64) -> F64:
        if how.static:
            return nearest(x, np.array(how.scale))
        tokens, width = x.shape
        size = {"token": width, "group": how.size, "tensor": x.size}[how.shared]
        whole = np.pad(x, [(0, 0), (0, -width % how.size)]) if how.size else x
        parts = whole.reshape(-1, size)
        scale = _largest(parts) / most
        scale = 2.0 ** np.ceil(np.log2(scale)) if how.powers else scale
        return nearest(parts, scale).reshape(tokens, -1)[:, :width]

    return rounded


def _largest(x: F64) -> F64:
    return np.asarray(np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-12))


def _int8(x: F64, scale: F64) -> F64:
    return np.asarray(np.clip(np.round(x / scale), -128.0, 127.0) * scale)


def _e4m3(x: F64, scale: F64) -> F64:
    scaled = np.clip(x / scale, -_E4M3, _E4M3)
    step = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(scaled), 1e-300))) - 3), _E4M3_LEAST)
    return np.asarray(np.round(scaled / step) * step * scale)


ACTIVATIONS: Final[Mapping[str, Round]] = {"bf16": bf16, "fp16": fp16}
"""By dtype."""

UNIT: Final[Mapping[str, float]] = {"bf16": 2.0**-9, "fp16": 2.0**-12}
"""Half the step below one, by dtype: the largest relative error of rounding to it."""
