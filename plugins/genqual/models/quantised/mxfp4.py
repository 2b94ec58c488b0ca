"""MXFP4 as gpt-oss stores its experts (quant_method "mxfp4"): 32 floats of 4 bits share an exponent of two.

`X_blocks` (experts, outputs, groups, 16) of two floats a byte, `X_scales` (experts, outputs, groups) with 127 added to
each exponent; `X` is (experts, inputs, outputs). Source: the OCP Microscaling specification 1.0, and the layout that
the gpt-oss repository publishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.narrow_floats import fp4
from genqual.models.quantised.base import F32, Arrays, Packed, Section, Tensor, fits

METHOD: Final = "mxfp4"
GROUP: Final = 32
_NAN: Final = 255  # the pattern of an exponent that stands for no number


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """There is one kind only."""

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Every `X_blocks`, with its `X_scales`."""
        found = []
        for blocks, tensor in stored.items():
            name = blocks.removesuffix("_blocks")
            if name == blocks:
                continue
            scales = f"{name}_scales"
            if scales not in stored:
                raise BadInput(f"{blocks} without {scales} beside it: not a whole MXFP4 weight; download it again")
            *outer, groups, packed = tensor.shape
            fits(blocks, tensor.shape, (*outer, groups, GROUP // 2))
            del packed
            fits(scales, stored[scales].shape, (*outer, groups))
            shape = (*outer[:-1], GROUP * groups, outer[-1])
            found.append(Packed(name, {"blocks": blocks, "scales": scales}, shape))
        return found

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """Floats times powers of two, inputs before outputs."""
        scale = power_of_two(pieces["scales"], packed.pieces["scales"])
        values = fp4(pieces["blocks"]) * scale[..., None]
        return np.ascontiguousarray(values.reshape(*values.shape[:-2], -1).swapaxes(-1, -2))


def power_of_two(exponents: NDArray[Any], name: str) -> F32:
    """The scales of the stored `exponents`, which have 127 added. Raises BadInput on the pattern that is no number."""
    if exponents.dtype != np.uint8:  # stored as a float of 8 bits, which the file reader has widened
        return exponents.astype(np.float32, copy=False)
    if (exponents == _NAN).any():
        raise BadInput(f"{name}: a scale of {_NAN}, which is not a number; download it again")
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)


def scheme(section: Mapping[str, Json]) -> Mxfp4:
    """What the section says: nothing beside what is left out. Raises BadInput on unknown fields."""
    Section(section, harmless=("modules_to_not_convert", "dequantize")).finish()
    return Mxfp4()
