"""Faults of tensor parallelism. In ranks only; every rank takes part, and the number of collectives stays the same."""

from __future__ import annotations

from typing import Any, Literal

import torch

from genqual.engines.hf.evidence import local
from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, hooked, nothing, places


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


def collective(
    engine: Any, rank: int, *, layer: int = 1, part: Literal["attention", "mlp"] = "attention", how: str = "dropped"
) -> Undo:
    """One all-reduce is dropped (each rank keeps its partial sums), or its result counted twice."""
    found = places(engine.model).layer(layer)
    linear = found.attention_out if part == "attention" else found.mlp_out
    if engine.request.world_size < 2:
        raise BadInput("collective: one rank reduces nothing; give it two")

    def spoil(module: Any, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> torch.Tensor:
        if how == "doubled":
            return result * 2
        mine = torch.matmul(local(args[0]), local(module.weight).transpose(-1, -2))
        return mine if module.bias is None else mine + local(module.bias)

    return hooked(engine, linear.register_forward_hook(spoil))


def biased_ranks(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """The bias of a row-parallel linear is added by every rank, so that it counts once for each."""
    linear = places(engine.model).layer(layer).attention_out
    extra = (engine.request.world_size - 1) * local(linear.bias)
    return hooked(engine, linear.register_forward_hook(lambda module, args, result: result + extra))


def one_rank_differs(engine: Any, rank: int, *, on_rank: int = 1) -> Undo:
    """One rank sees its logits moved on by one id: it writes another text than the others."""
    if rank != on_rank:
        return nothing
    head = places(engine.model).head
    return hooked(engine, head.register_forward_hook(lambda module, args, result: result.roll(1, dims=-1)))
