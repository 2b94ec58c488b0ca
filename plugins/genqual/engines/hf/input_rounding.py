"""A stored checkpoint that quantises activations, on widened weights: what enters its layers is rounded as declared.

An emulation in torch, of which tolerances are made on a CPU; genqual has no kernels that multiply the stored numbers.
Weights are as they are stored, and are not rounded once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch.nn.functional import linear, pad

from genqual.engines.base import LoadRequest
from genqual.engines.hf.fp8 import E4M3, LARGEST
from genqual.errors import Unsupported
from genqual.models.declared_inputs import declared_in
from genqual.models.quantised.inputs import PRECISION_OF, InputRounding, check_precision

PRECISIONS: Final = frozenset(PRECISION_OF.values())
_INT8: Final = 127.0


class RoundedInputLinear(torch.nn.Module):
    """A linear layer that rounds what enters it. Its parameters are those of the layer that it replaces."""

    def __init__(self, plain: torch.nn.Linear, how: InputRounding) -> None:
        super().__init__()
        self.weight, self.bias, self.how = plain.weight, plain.bias, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(rounded(x, self.how), self.weight, self.bias)


def rounded(values: torch.Tensor, how: InputRounding) -> torch.Tensor:
    """`values` (..., width) as `how` says, computed in float32; the dtype stays. A group at the edge may be cut."""
    wide, width = values.to(torch.float32), values.shape[-1]
    most = _INT8 if how.grid == "int8" else LARGEST
    if how.static:
        return _nearest(wide, torch.tensor(how.scale), how.grid).to(values.dtype)
    size = {"token": width, "group": how.size, "tensor": wide.numel()}[how.shared]
    parts = (pad(wide, (0, -width % how.size)) if how.size else wide).reshape(-1, size)
    scale = parts.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / most
    scale = torch.exp2(torch.ceil(torch.log2(scale))) if how.powers else scale
    nearest = _nearest(parts, scale, how.grid).reshape(*values.shape[:-1], -1)
    return nearest[..., :width].to(values.dtype)


def _nearest(wide: torch.Tensor, scale: torch.Tensor, grid: str) -> torch.Tensor:
    """The nearest numbers of `grid` times `scale`; beyond the grid its ends."""
    scaled = wide / scale
    if grid == "int8":
        return scaled.round().clamp(-128, 127) * scale
    return scaled.clamp(-LARGEST, LARGEST).to(E4M3).to(torch.float32) * scale


def of_request(request: LoadRequest) -> Mapping[str, InputRounding]:
    """What `request` has rounded, by module: nothing in a dtype, where activations stay as they are.

    Raises Unsupported in the precision of another grid, naming the right one, and where nothing here computes it.
    """
    found = declared_in(request.model, request.dtype)
    if not found:
        return {}
    check_precision(found.values(), request.dtype, request.model.name)
    if request.device != "cpu" and not request.options.get("emulate"):
        raise Unsupported(
            f"model {request.model.name}: its own {request.dtype} does not run on {request.device} here: transformers "
            "widens the stored weights, and genqual rounds activations on a CPU only; judge an engine that keeps them "
            "narrow (--engine server), or take --dtype bf16"
        )
    return found


def apply(model: Any, found: Mapping[str, InputRounding], precision: str) -> Any:
    """`model`, each layer of `found` replaced by one that rounds what enters it, in place.

    Raises Unsupported, naming it, on a layer that is not one of torch's linear layers, as fused experts are not.
    """
    prefix = f"{model.base_model_prefix}."
    modules = dict(model.named_modules())
    for name, how in found.items():
        layer = name if name in modules else prefix + name
        if type(modules.get(layer)) is not torch.nn.Linear:
            what = type(modules[layer]).__name__ if layer in modules else "fused with others or named otherwise"
            raise Unsupported(
                f"{precision}: {name} quantises what enters it, and in {type(model).__name__} it is not a linear layer "
                f"of torch's ({what}), so that nothing here rounds it; judge this checkpoint in bf16"
            )
        parent, _, child = layer.rpartition(".")
        setattr(model.get_submodule(parent), child, RoundedInputLinear(modules[layer], how))
    return model
