"""One of several simulated cards: collectives, with what each gave, as JSON. Started with a rank's own environment."""

from __future__ import annotations

import json
import sys
from datetime import timedelta

import habana_frameworks.torch.core  # noqa: F401, registers hccl
import torch
import torch.distributed as dist
from habana_frameworks.torch.distributed.hccl import SLOT

DTYPES = (torch.float32, torch.bfloat16, torch.int64)


def summed(rank: int, length: int, dtype: torch.dtype) -> bool:
    """Whether the sum over all cards is the one that every card can work out by itself."""
    size = dist.get_world_size()
    base = torch.arange(length) % 5
    mine = (base + rank).to(dtype).to("hpu")
    dist.all_reduce(mine)
    return bool(torch.equal(mine.cpu(), (base * size + sum(range(size))).to(dtype)))


def main() -> None:
    dist.init_process_group("hccl", timeout=timedelta(seconds=60))
    rank, size = dist.get_rank(), dist.get_world_size()
    # Odd, empty, and longer than the slot of a rank in shared memory; often, for turns share two sets of slots.
    sums = {str(dtype): [summed(rank, n, dtype) for n in (1, 0, 7, SLOT // 2 + 3)] for dtype in DTYPES}
    often = all(summed(rank, 3, torch.float32) for _ in range(200))
    third = torch.full((1000,), 1 / 3 + rank / 7, dtype=torch.bfloat16).to("hpu")
    dist.all_reduce(third)
    gathered = [torch.empty(2) for _ in range(size)]
    dist.all_gather(gathered, torch.full((2,), float(rank)))
    largest = torch.tensor([rank])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    dist.barrier()
    try:
        dist.all_reduce(torch.ones(4, 6).to("hpu").t())
        strided = "nothing"
    except ValueError as error:
        strided = str(error)
    found = {
        "sums": sums,
        "often": often,
        "bits": third.cpu().view(torch.int16).tolist(),
        "gathered": [one.tolist() for one in gathered],
        "largest": largest.tolist(),
        "strided": strided,
    }
    dist.destroy_process_group()
    json.dump(found, sys.stdout)


main()
