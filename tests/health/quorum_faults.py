"""A core or card that computes wrong, for tests: one bit of the last layer's output there. In ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from genqual.faults.injectors.places import Undo, base_of, hooked


def defective(engine: Any, rank: int, *, cores: list[int], every: int = 1) -> Undo:
    """The lowest bit of one number of every so many passes that run on one of `cores`."""
    return _wrong(engine, lambda: os.sched_getaffinity(0) <= set(cores), every)


def defective_card(engine: Any, rank: int, *, card: int) -> Undo:
    """The same of every pass on a simulated card."""
    return _wrong(engine, lambda: os.environ["HABANA_VISIBLE_MODULES"] == str(card), 1)


def _wrong(engine: Any, here: Callable[[], bool], every: int) -> Undo:
    passes = 0

    def flip(module: Any, args: Any, result: Any) -> None:
        nonlocal passes
        passes += here()
        if here() and passes % every == 0:
            result[0].view(torch.int32).view(-1)[0] ^= 1

    return hooked(engine, base_of(engine.model).register_forward_hook(flip))
