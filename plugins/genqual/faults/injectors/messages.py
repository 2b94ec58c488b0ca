"""Messages between ranks that arrive wrong, as over a defective link. In ranks only."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from genqual.faults.injectors.places import Undo

PLACE = 7


def flipped_bit(engine: Any, rank: int, *, on_rank: int, bit: int) -> Undo:
    """What `on_rank` sends has one `bit` wrong, of its value number PLACE. Messages of one value stay right."""
    true = dist.send

    def send(tensor: Any, *args: Any, **more: Any) -> None:
        if rank == on_rank and tensor.numel() > PLACE:
            tensor = tensor.clone()
            tensor[PLACE] ^= 1 << bit
        true(tensor, *args, **more)

    def undo() -> None:
        dist.send = true

    dist.send = send
    return undo
