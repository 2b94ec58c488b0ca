"""The oracle with angles of rotary positions in float32, as engines compute them in every dtype. Pure: NumPy only.

At position 1024 a float32 angle of the fastest pair is off by up to 3e-5 radians; all other rounding of fp32 is a tenth
of that and less. How far it moves the logits hangs on the model: sharp attention multiplies it.
"""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from genqual.conformance.oracle.core import F64
from genqual.conformance.oracle.rotary import Rotary
from genqual.conformance.oracle.spec import ComposedOracle


def with_float32_angles(oracle: object) -> ComposedOracle | None:
    """A copy of `oracle`, on the same weights; None of one that has no rotary positions, or is of others' making."""
    if not isinstance(oracle, ComposedOracle):
        return None
    model = _replaced(oracle.model)
    if model is oracle.model:
        return None
    made = copy.copy(oracle)
    made.model = model
    return made


def _replaced(value: Any) -> Any:
    """`value` with each rotary part below it replaced; `value` itself where there is none."""
    if isinstance(value, Rotary):
        return _Float32Rotary(**{field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, tuple | list):
        parts = [_replaced(one) for one in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        return value if same else type(value)(parts)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {field.name: _replaced(getattr(value, field.name)) for field in fields(value)}
    if all(new is getattr(value, name) for name, new in changed.items()):
        return value
    made = copy.copy(value)
    for name, new in changed.items():
        object.__setattr__(made, name, new)
    return made


class _Float32Rotary(Rotary):
    """Frequencies, positions and their product in float32, cosine and sine of that; the rotation itself as ever."""

    def __call__(self, x: F64, first: int) -> F64:
        frequencies = self.frequencies(first + x.shape[1]).astype(np.float32)
        angles = np.arange(first, first + x.shape[1], dtype=np.float32)[:, None] * frequencies
        turn = self.magnitude * (np.cos(angles) + 1j * np.sin(angles)).astype(np.complex128)
        width = 2 * len(frequencies)
        pairs = (slice(0, width, 2), slice(1, width, 2)) if self.interleaved else _halves(width)
        turned = (x[..., pairs[0]] + 1j * x[..., pairs[1]]) * turn
        out = np.array(x, dtype=np.float64)
        out[..., pairs[0]], out[..., pairs[1]] = turned.real, turned.imag
        return out


def _halves(width: int) -> tuple[slice, slice]:
    return slice(0, width // 2), slice(width // 2, width)
