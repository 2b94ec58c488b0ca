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
    return _wrong(engine, lambda: _is_on(card), 1)


def lost_card(engine: Any, rank: int, *, card: int) -> Undo:
    """A rank that ends in its first pass on a simulated card."""
    return _each_pass(engine, lambda result: os._exit(3) if _is_on(card) else None)


def chosen(engine: Any, rank: int, *, every: int) -> Undo:
    """The lowest bit of one logit that a generation chooses from, at one step of every so many; a forced run is right.

    Fewer are struck than there are: the first step, and every `every`-th after it.
    """
    right, steps = engine.generate, 0

    def flip(input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        if steps % every == 0:
            scores.view(torch.int32)[0, 0] ^= 1
        steps += 1
        return scores

    def generate(batch: Any, new_tokens: int) -> Any:
        loop = engine.run_generate

        def run(**inputs: Any) -> Any:
            inputs["logits_processor"].insert(0, flip)
            return loop(**inputs)

        engine.run_generate = run
        try:
            return right(batch, new_tokens)
        finally:
            engine.run_generate = loop

    engine.generate = generate

    def undo() -> None:
        del engine.generate

    return undo


def _wrong(engine: Any, here: Callable[[], bool], every: int) -> Undo:
    passes = 0

    def flip(result: Any) -> None:
        nonlocal passes
        passes += here()
        if here() and passes % every == 0:
            result[0].view(torch.int32).view(-1)[0] ^= 1

    return _each_pass(engine, flip)


def _each_pass(engine: Any, act: Callable[[Any], None]) -> Undo:
    def hook(module: Any, args: Any, result: Any) -> None:
        act(result)

    return hooked(engine, base_of(engine.model).register_forward_hook(hook))


def _is_on(card: int) -> bool:
    return os.environ["HABANA_VISIBLE_MODULES"] == str(card)
