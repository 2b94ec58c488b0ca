"""AWQ (quant_method "awq") in its gemm order: eight 4-bit integers a word, not one after the other.

`qweight` (inputs, outputs / 8), `qzeros` (groups, outputs / 8), `scales` (groups, outputs). A weight is
scale * (integer - zero point). Source: the packing of AutoAWQ 0.2, `WQLinear_GEMM`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised.base import F32, Arrays, Packed, Section, Tensor, fits, packed_modules
from genqual.models.quantised.numbers import I32, bits_of

METHOD: Final = "awq"
_BITS: Final = 4
_PLACES: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the outputs 0 to 7 lie."""
_HARMLESS: Final = (
    "modules_to_not_convert",
    "do_fuse",
    "fuse_max_seq_len",
    "modules_to_fuse",
    "exllama_config",
    "backend",
)


@dataclass(frozen=True, slots=True)
class Awq:
    """`group`: inputs that share a scale, 0 for all."""

    group: int

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Every `X.qweight`, with what lies beside it."""
        found = []
        for module, tensor, pieces in packed_modules(stored, "AWQ"):
            inputs, outputs = tensor.shape[0], tensor.shape[1] * 8
            groups = -(-inputs // (self.group or inputs))
            fits(pieces["scales"], stored[pieces["scales"]].shape, (groups, outputs))
            fits(pieces["qzeros"], stored[pieces["qzeros"]].shape, (groups, outputs // 8))
            found.append(Packed(f"{module}.weight", pieces, (outputs, inputs)))
        return found

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """scale * (integer - zero point) of each input's group."""
        inputs = packed.shape[1]
        group = np.arange(inputs) // (self.group or inputs)
        centred = _in_order(pieces["qweight"]) - _in_order(pieces["qzeros"])[group]
        scales = pieces["scales"].astype(np.float32, copy=False)[group]
        return np.ascontiguousarray((centred.astype(np.float32) * scales).T)


def _in_order(words: NDArray[np.int32]) -> I32:
    """The integers of `words` (rows, words) as (rows, 8 words), outputs in their order."""
    apart = bits_of(words, _BITS, 8 * words.shape[1]).reshape(*words.shape, 8)
    return apart[..., _PLACES].reshape(len(words), -1)


def scheme(section: Mapping[str, Json]) -> Awq:
    """What the section says. Raises BadInput on orders other than gemm, and on other bits."""
    fields = Section(section, harmless=_HARMLESS)
    bits, group = fields.integer("bits", "w_bit", default=4), fields.integer("group_size", "q_group_size", default=128)
    if bits != _BITS:
        raise BadInput(f"config {fields.where}.bits = {bits}: AWQ's gemm order packs 4")
    if group != -1 and group < 1:
        raise BadInput(
            f"config {fields.where}.group_size = {group}: a positive integer, or -1 for all inputs, is wanted"
        )
    fields.choice("version", ("gemm",), "gemm")
    fields.choice("format", ("gemm",), "gemm")
    if not fields.flag("zero_point", True):
        raise BadInput(f"config {fields.where}.zero_point = false: genqual reads AWQ with zero points only")
    fields.finish()
    return Awq(max(group, 0))
