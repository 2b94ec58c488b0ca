"""fp8 as a declared scheme: e4m3 weights by row and activations by token, products in what the device has. Torch.

On a GPU of compute capability 8.9 or later torchao's kernels run. `emulate` says what fault-free fp8 may read, on any
CPU: the same rounding, with the products in the model's own dtype. The envelope of a reference is made of it, never of
the device under test.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import torch
from torch.nn.functional import linear

from genqual.engines.base import LoadRequest
from genqual.errors import Unsupported

SCHEME: Final = "fp8"
E4M3: Final = torch.float8_e4m3fn
LARGEST: Final = float(torch.finfo(E4M3).max)  # 448
LEAST: Final = (8, 9)  # compute capability: Ada, Hopper and later multiply e4m3


class EmulatedLinear(torch.nn.Module):
    """A linear layer as fp8 computes it: both factors rounded to e4m3, each row with a scale of its own."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(rounded(plain.weight), requires_grad=False)
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(rounded(x), self.weight, self.bias)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """`values` (..., n) to the nearest e4m3 numbers times the scale of their row; the dtype stays."""
    wide = values.to(torch.float32)
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / LARGEST
    return ((wide / scale).to(E4M3).to(torch.float32) * scale).to(values.dtype)


def apply(model: Any, request: LoadRequest) -> Any:
    """`model` in fp8, in place. Raises Unsupported where the device multiplies no fp8, with what it lacks."""
    if request.options.get("emulate"):
        return emulate(model)
    if request.device != "cuda":
        where = "Gaudi2 needs Intel's neural compressor for it" if request.device == "hpu" else "it has no e4m3 product"
        raise Unsupported(
            f"fp8 does not run on {request.device} here: {where}; it runs on cuda from capability 8.9 on (L4, H100)"
        )
    found = torch.cuda.get_device_capability()
    if found < LEAST:
        raise Unsupported(
            f"fp8 needs compute capability 8.9; {torch.cuda.get_device_name()} has {'.'.join(map(str, found))}"
        )
    try:
        quantization: Any = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise Unsupported(f"fp8 needs torchao, which cannot be imported here ({error}); pip install torchao") from error
    by_row = quantization.PerRow()
    quantization.quantize_(model, quantization.Float8DynamicActivationFloat8WeightConfig(granularity=by_row))
    return model


def emulate(model: Any) -> Any:
    """`model` with every linear layer replaced by its emulation, in place."""
    for name, layer in list(model.named_modules()):
        if type(layer) is torch.nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, EmulatedLinear(layer))
    return model
