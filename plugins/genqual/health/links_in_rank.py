"""Messages between every two ranks, of integers whose sums are known to the bit. Runs in ranks; torch is allowed here.

Every rank computes what it must receive, so a wrong bit is found where it arrives. gloo on processors.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist

from genqual.cases import Json
from genqual.engines.base import Loaded, LoadRequest
from genqual.health.links import pairs

_SUMMED: Final = 1 << 16  # values of each all-reduce
_MODULUS: Final = 2_147_483_647  # prime: no two rounds, ranks or places have a pattern in common
_STRIDE: Final = 1_000_003  # from one message to the next; far too small to overflow int64
_MOST_TOLD: Final = 8


class LinkRanks:
    """Takes the place of an engine: ranks that are joined and hold no model."""

    def load(self, request: LoadRequest) -> Loaded:
        """Join the group. Collective."""
        start = time.perf_counter()
        dist.init_process_group(os.environ["GENQUAL_BACKEND"], rank=request.rank, world_size=request.world_size)
        return Loaded(time.perf_counter() - start, 0, 0, 0, None, 0, "none")


def values(seed: int, count: int) -> torch.Tensor:
    """(count,) int64 from 0 to 2**31 - 2, known to every rank."""
    first = (seed * 48_271 + 11) % _MODULUS
    return (torch.arange(count, dtype=torch.int64) * 69_621 + first) % _MODULUS


def exchange(engine: LinkRanks, *, seed: int, rounds: int, count: int) -> dict[str, Any]:
    """In each round an all-reduce, then each pair in turn, `count` int64 values each way. Collective.

    Returns `seconds` (rounds, pairs, 2): how long this rank waited for the message of the pair's first host to its
    second, and the other way, 0 where it receives none;
    `wrong`, a sentence for each wrong message, the first eight; `wrong_messages`, how many there were.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    order = pairs(world)
    seconds = np.zeros((rounds, len(order), 2))
    wrong: list[Json] = []
    told = 0
    # One buffer each for all rounds: pages that are new would be timed, too.
    pattern, ready = values(seed, count), torch.zeros(1, dtype=torch.int64)
    message, inbox = torch.empty_like(pattern), torch.empty_like(pattern)
    for turn in range(rounds):
        number = seed * 1_000_003 + turn
        summed = values(number * world + rank, _SUMMED)
        dist.all_reduce(summed)
        said = _differs(summed, sum(values(number * world + one, _SUMMED) for one in range(world)), "all-reduce", turn)
        # Every round begins with another pair: what comes and goes with time meets all of them.
        for at in range(len(order)):
            index = (at + turn) % len(order)
            dist.barrier()
            if rank not in order[index]:
                continue
            for way, (sender, receiver) in enumerate((order[index], order[index][::-1])):
                torch.add(pattern, (number * world + sender) * _STRIDE, out=message)
                if rank == sender:
                    dist.recv(ready, src=receiver)
                    dist.send(message, dst=receiver)
                    continue
                inbox.fill_(-1)
                start = time.perf_counter()
                dist.send(ready, dst=sender)
                dist.recv(inbox, src=sender)
                seconds[turn, index, way] = time.perf_counter() - start
                said += _differs(inbox, message, f"rank {sender} to rank {receiver}", turn)
        told += len(said)
        wrong += said[: _MOST_TOLD - len(wrong)]
    return {"seconds": seconds, "wrong": wrong, "wrong_messages": told}


def _differs(got: torch.Tensor, want: torch.Tensor | int, what: str, turn: int) -> list[Json]:
    different = torch.nonzero(got != want).reshape(-1)
    if not len(different):
        return []
    at = int(different[0])
    wanted = int(want[at]) if isinstance(want, torch.Tensor) else want
    many = f"{len(different)} of {len(got)} values are wrong"
    return [f"{what}, round {turn}: {many}; the first, at {at}, is {int(got[at])} instead of {wanted}"]
