"""Faults of tensor parallelism. In ranks only; every rank takes part, and the number of collectives stays the same."""

from __future__ import annotations

from typing import Any, Literal

import torch

from genqual.conformance.faults.places import Undo, hooked, places
from genqual.engines.evidence import local
from genqual.errors import BadInput


def half_allreduce(engine: Any, rank: int, *, layer: int = 1, part: Literal["attention", "mlp"] = "attention") -> Undo:
    """The second half of the channels of one all-reduce keeps this rank's partial sums, as if it never arrived."""
    found = places(engine.model).layer(layer)
    linear = found.attention_out if part == "attention" else found.mlp_out
    if engine.request.world_size < 2:
        raise BadInput("half_allreduce: one rank reduces nothing; give it two")

    def drop(module: Any, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> torch.Tensor:
        mine = torch.matmul(local(args[0]), local(module.weight).transpose(-1, -2))
        if module.bias is not None:
            mine = mine + local(module.bias)
        half = result.shape[-1] // 2
        return torch.cat([result[..., :half], mine[..., half:]], dim=-1)

    return hooked(engine, linear.register_forward_hook(drop))
