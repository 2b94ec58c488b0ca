"""FP8 weights with a scale for each block, row or tensor (quant_method "fp8"), as DeepSeek-V3 and transformers do.

A weight is its 8-bit floats times the scale beside it: `X_scale_inv`, by which the writer divided, or `X_scale`.
Source: the model card and inference code of DeepSeek-V3 (2024). `activation_scheme` says what engines do besides that
keep the weights narrow: round what enters each of these layers to e4m3, by groups as wide as a block, or by token
without blocks (`dynamic`), or by a scale stored with the layer (`static`: `X.activation_scale` as transformers calls
it, `X.input_scale` as others do).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised.base import F32, INPUT_SCALE, SECTION, Arrays, Packed, Section, Shape, Tensor
from genqual.models.quantised.inputs import InputRounding
from genqual.models.quantised.numbers import grid, spread

METHOD: Final = "fp8"
FLOATS: Final = ("F8_E4M3", "F8_E5M2")
_SCALES: Final = ("_scale_inv", "_scale")
_STATIC: Final = ("activation_scale", "input_scale")
_HARMLESS: Final = ("modules_to_not_convert", "ignored_layers", "dequantize", "fmt", "use_deep_gemm")


@dataclass(frozen=True, slots=True)
class Fp8:
    """`block`: rows and columns that share a scale; None: a scale for the tensor or for each row.

    `inputs` is how what enters every layer is rounded.
    """

    block: tuple[int, int] | None
    inputs: InputRounding

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Weights of 8-bit floats, with the scale beside each."""
        found = []
        for name, tensor in stored.items():
            if tensor.dtype not in FLOATS:
                continue
            scale = next((name + suffix for suffix in _SCALES if name + suffix in stored), None)
            if scale is None:
                raise BadInput(f"{name} is {tensor.dtype} without {name}_scale_inv or {name}_scale beside it")
            block = self._block(scale, stored[scale].shape, tensor.shape)
            pieces = {"weight": name, "scale": scale} | self._static(name, stored)
            found.append(Packed(name, pieces, tensor.shape, block, self.inputs))
        return found

    def unwidened(self, stored: Mapping[str, Tensor]) -> str | None:
        """Why transformers does not widen `stored` as it is declared: the first weight of which that holds, or None.

        It knows `X_scale_inv` alone, and takes the rows over the number of scales for the rows of a block: 100 where it
        is 128, of 200 rows and two scales. Where that leaves a rest, as of the 576 rows of DeepSeek-V3's
        `kv_a_proj_with_mqa`, it does not load.
        """
        for one in self.find(stored):
            scale = one.pieces["scale"]
            if not scale.endswith(_SCALES[0]):
                return f"does not read {scale}: it knows {_SCALES[0]} alone"
            if len(stored[scale].shape) == 1 and stored[scale].shape != (1,):
                return f"does not read {scale}, which has one axis"
            if any(size > block and size % block for size, block in zip(one.shape[-2:], one.how, strict=True)):
                return f"spreads {scale} evenly over {one.shape}, and its last blocks are cut"
        return None

    def _static(self, weight: str, stored: Mapping[str, Tensor]) -> dict[str, str]:
        """The stored scale of what enters the layer of `weight`, where it has one."""
        # Fused experts are parameters of their module, and what belongs to one has its name in front.
        before = weight.removesuffix("weight") if weight.endswith(".weight") else f"{weight}_"
        name = next((before + one for one in _STATIC if before + one in stored), None)
        if name is None and self.inputs.static:
            raise BadInput(
                f"config {SECTION}.activation_scheme is static, and there is no {before}{_STATIC[0]}; download it again"
            )
        return {} if name is None else {INPUT_SCALE: name}

    def _block(self, scale: str, found: Shape, weight: Shape) -> tuple[int, int]:
        """What one scale is of: (rows, columns)."""
        if found in ((), (1,), (1, 1)):
            return weight[-2], weight[-1]
        if self.block is not None and found == grid(weight, self.block):
            return self.block
        if self.block is None and found in ((weight[-2],), (*weight[:-1], 1)):
            return 1, weight[-1]
        wanted = grid(weight, self.block) if self.block else (*weight[:-1], 1)
        blocks = "" if self.block else f", as config {SECTION}.weight_block_size is not set"
        raise BadInput(f"{scale} has shape {found}; of a weight {weight} a single scale or {wanted} is wanted{blocks}")

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """Floats times scales. Scales of 8 bits without a sign are exponents of two, whichever dtype they have."""
        scale = pieces["scale"]
        if scale.dtype == np.uint8:
            scale = np.ldexp(np.float32(1), scale.astype(np.int32) - 127)
        if scale.size > 1 and scale.ndim < 2:
            scale = scale[:, None]  # one for each row
        whole = scale.reshape(()) if scale.size == 1 else spread(scale, packed.shape, packed.how)
        values: F32 = pieces["weight"] * whole.astype(np.float32, copy=False)
        return values


def scheme(section: Mapping[str, Json]) -> Fp8:
    """What the section says. Raises BadInput on unknown fields."""
    fields = Section(section, harmless=_HARMLESS)
    static = fields.choice("activation_scheme", ("dynamic", "static"), "dynamic") == "static"
    powers = fields.choice("scale_fmt", ("ue8m0", "float"), "float") == "ue8m0"
    block = fields.sizes("weight_block_size")
    fields.finish()
    if static:
        return Fp8(block, InputRounding("e4m3", "tensor", static=True))
    if block is None:
        return Fp8(block, InputRounding("e4m3", "token", powers=powers))
    return Fp8(block, InputRounding("e4m3", "group", block[1], powers=powers))
