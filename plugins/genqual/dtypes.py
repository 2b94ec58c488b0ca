"""The dtypes of weights and activations: one table of their names, sizes and codes. Pure: the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: Final[tuple[str, ...]] = get_args(Dtype)


@dataclass(frozen=True, slots=True)
class Format:
    """How one dtype is called elsewhere, and how it lies in a file.

    `stored` is NumPy's code of the bytes, little endian: NumPy has no bfloat16, so its bits are read as integers.
    `mantissa` counts the bits behind the leading one.
    """

    name: str
    torch: str
    safetensors: str
    stored: str
    bytes: int
    mantissa: int


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        one.name: one
        for one in (
            Format("fp32", "float32", "F32", "<f4", 4, 23),
            Format("bf16", "bfloat16", "BF16", "<u2", 2, 7),
            Format("fp16", "float16", "F16", "<f2", 2, 10),
        )
    }
)
"""By the name that options, cases and records use."""

BY_SAFETENSORS: Final[Mapping[str, Format]] = MappingProxyType({one.safetensors: one for one in FORMATS.values()})
