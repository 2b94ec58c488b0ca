"""A fault of a group of cards: one of them computes with another's shard. In ranks only."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from genqual.engines.hf.evidence import local
from genqual.faults.injectors.places import Undo, places


def swapped_shard(engine: Any, rank: int, *, on_rank: int = 1, layer: int = 1) -> Undo:
    """Rank `on_rank` takes rank 0's shard of the matrix that ends the MLP of `layer`. Collective."""
    weight = local(places(engine.model).layer(layer).mlp_out.weight)
    mine = weight.to("cpu").clone()
    shards = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(shards, mine)
    if rank == on_rank:
        weight.copy_(shards[0].to(weight.device))

    def undo() -> None:
        weight.copy_(mine.to(weight.device))

    return undo
