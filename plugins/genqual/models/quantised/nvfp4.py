"""NVFP4: sixteen floats of 4 bits share a scale of 8 bits, and all of a weight a scale of 32 (quant_method "modelopt").

`X.weight` (outputs, inputs / 2) of two floats a byte, `X.weight_scale` (outputs, inputs / 16) in E4M3 and
`X.weight_scale_2`, by which they are multiplied. Source: NVIDIA's description of NVFP4 (2025) and the layout that
TensorRT Model Optimizer exports; compressed-tensors stores the same with a scale that divides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.narrow_floats import fp4
from genqual.models.quantised.base import AT_RUN_TIME, F32, Arrays, Packed, Section, Shape, Tensor, fits
from genqual.models.quantised.numbers import spread

METHOD: Final = "modelopt"
GROUP: Final = 16
_WEIGHTS_ONLY: Final = "w4a16_nvfp4"


@dataclass(frozen=True, slots=True)
class Nvfp4:
    """`group`: inputs that share a scale."""

    group: int = GROUP

    def find(self, stored: Mapping[str, Tensor]) -> list[Packed]:
        """Every `X.weight_scale_2`, with what lies beside it."""
        found = []
        for name in stored:
            module, _, last = name.rpartition(".")
            if last != "weight_scale_2":
                continue
            pieces = {"weight": f"{module}.weight", "scale": f"{module}.weight_scale", "global": name}
            for piece in pieces.values():
                if piece not in stored:
                    raise BadInput(f"{name} without {piece} beside it: not a whole NVFP4 weight; download it again")
            if f"{module}.input_scale" in stored:
                raise BadInput(f"{module}.input_scale is stored: {AT_RUN_TIME}")
            outputs, half = stored[pieces["weight"]].shape
            fits(pieces["scale"], stored[pieces["scale"]].shape, (outputs, 2 * half // self.group))
            found.append(Packed(pieces["weight"], pieces, (outputs, 2 * half)))
        return found

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """Floats times their group's scale times the weight's."""
        scale = pieces["scale"].astype(np.float32) * pieces["global"].astype(np.float32).reshape(())
        return scaled(pieces["weight"], scale, packed.shape, self.group)


def scaled(weight: NDArray[np.uint8], scale: F32, shape: Shape, group: int) -> F32:
    """The floats of 4 bits in the bytes `weight` times `scale`, one for each `group` of inputs."""
    values: F32 = fp4(weight) * spread(scale, shape, (1, group))
    return values


def scheme(section: Mapping[str, Json]) -> Nvfp4:
    """What the section says. Raises BadInput on algorithms that quantise activations too, and on others."""
    fields = Section(section, harmless=("producer", "exclude_modules", "ignore"))
    algorithm = fields.choice("quant_algo", (_WEIGHTS_ONLY, "nvfp4", "nvfp4_awq", "fp8"))
    if algorithm != _WEIGHTS_ONLY:
        raise BadInput(f"config {fields.where}.quant_algo = {algorithm.upper()!r}: {AT_RUN_TIME}")
    fields.unset("kv_cache_quant_algo", "a quantised cache is not computed by the oracle; " + AT_RUN_TIME)
    fields.unset("kv_cache_scheme", "a quantised cache is not computed by the oracle; " + AT_RUN_TIME)
    group = fields.integer("group_size", default=GROUP)
    groups = fields.within("config_groups")
    for name in groups.data if groups else ():
        one = groups.within(name, harmless=("targets",)) if groups else None
        if one is not None:
            one.unset("input_activations", AT_RUN_TIME)
            weights = one.within("weights", harmless=("dynamic", "num_bits", "type", "group_size"))
            group = weights.integer("group_size", default=group) if weights else group
            one.finish()
    fields.finish()
    return Nvfp4(group)
