"""Faults of precision: narrower or wider arithmetic than was declared. In ranks only."""

from __future__ import annotations

from typing import Any

import torch

from genqual.engines.hf.evidence import local
from genqual.engines.hf.runtime import dtype_of
from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, changed, first_input, output, places, replaced
from genqual.models.build import dtypes_by_rule, stored_tensors


def rounded(
    engine: Any, rank: int, *, part: str = "mlp_out", layer: int = 1, bits: int = 10, before: bool = True
) -> Undo:
    """What enters (or leaves) `part` keeps `bits` of its mantissa: 10 is TF32, 7 is bf16, 3 is fp8."""

    def change(values: torch.Tensor) -> torch.Tensor:
        whole, power = torch.frexp(values.float())
        return torch.ldexp((whole * 2 ** (bits + 1)).round() / 2 ** (bits + 1), power).to(values.dtype)

    module = places(engine.model).part(part, layer)
    return first_input(engine, module, change) if before else output(engine, module, change)


def short_sums(engine: Any, rank: int, *, layer: int = 1, chunk: int = 16) -> Undo:
    """A product is summed in chunks of `chunk`, each partial sum rounded to bf16."""
    linear = places(engine.model).layer(layer).mlp_out

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        weight = local(linear.weight)
        total = torch.zeros(*hidden.shape[:-1], weight.shape[0], dtype=torch.bfloat16)
        for start in range(0, hidden.shape[-1], chunk):
            part = hidden[..., start : start + chunk] @ weight[:, start : start + chunk].T
            total = (total + part.to(torch.bfloat16)).to(torch.bfloat16)
        out = total.to(hidden.dtype)
        return out if linear.bias is None else out + linear.bias

    # BLOOM's linear is wrapped by its MLP, which adds the residual itself; only the product is replaced.
    undo = replaced(linear, "forward", forward)
    changed(engine)
    return undo


@torch.no_grad()
def kept_cast(engine: Any, rank: int) -> Undo:
    """Every weight has the declared dtype, those too that the model's own rule keeps in another. BadInput: none is."""
    asked = dtype_of(engine.request.dtype)
    rule = dtypes_by_rule(type(engine.model), engine.model.config, asked)
    kept = [(tensor, tensor.data) for name, tensor in stored_tensors(engine.model) if rule.get(name, asked) != asked]
    if not kept:
        raise BadInput(f"{type(engine.model).__name__} keeps no weight in another dtype than {engine.request.dtype}")
    for tensor, right in kept:
        tensor.data = right.to(asked)
    changed(engine)

    def undo() -> None:
        for tensor, right in kept:
            tensor.data = right
        changed(engine)

    return undo


@torch.no_grad()
def widened(engine: Any, rank: int) -> Undo:
    """The model was put into fp32, whatever was declared: too exact, and twice the memory."""
    places(engine.model)
    was = next(engine.model.parameters()).dtype
    engine.model.to(torch.float32)
    changed(engine)

    def undo() -> None:
        engine.model.to(was)
        changed(engine)

    return undo
