"""Faults that come and go: noise, wear, state between requests, inputs written to. In ranks only."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from genqual.engines.hf.evidence import local
from genqual.faults.injectors.places import Undo, changed, output, places, replaced


def noise(engine: Any, rank: int, *, layer: int = 1, size: float = 1e-4) -> Undo:
    """Each pass is off by another relative error of `size`."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        return hidden * (1 + size * torch.randn_like(hidden))

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def worn(engine: Any, rank: int, *, layer: int = 1, factor: float = 1.001, after: int = 60) -> Undo:
    """From the pass `after` on a layer puts out `factor` times too much, a little more with each pass."""
    passes = 0

    def change(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return hidden * factor ** max(0, min(passes - after, 50))

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def remembered(engine: Any, rank: int, *, layer: int = 1, share: float = 0.05) -> Undo:
    """The first token of a request holds `share` of the last of the request before."""
    last: list[torch.Tensor] = []

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] > 1 and last:
            hidden = hidden.clone()
            hidden[:, :1] += share * last[0]
        last[:] = [hidden[:1, -1:].detach().clone()]
        return hidden

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def first_pass(engine: Any, rank: int, *, layer: int = 1, factor: float = 1.01, loading: bool = True) -> Undo:
    """The first pass over several tokens is off by 1 %, and no other: something is not ready when a process begins.

    With `loading` it is the pass that loading ends with, made once more; else that of the first request after it.
    """
    passed = False

    def change(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal passed
        if hidden.shape[1] > 1 and not passed:
            passed = True
            return hidden * factor
        return hidden

    take_back = output(engine, places(engine.model).layer(layer).mlp_out, change)
    if loading:
        engine._warm()

    def undo() -> None:
        take_back()
        if loading:
            engine._warm()

    return undo


def by_process(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """What a layer puts out depends on the number of the process, by up to 1 %."""
    factor = 1 + (os.getpid() * 7919 % 101 + 1) * 1e-4
    return output(engine, places(engine.model).layer(layer).mlp_out, lambda hidden: hidden * factor)


@torch.no_grad()
def weights_drift(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """Every pass adds a little to one weight."""
    weight = local(places(engine.model).layer(layer).mlp_out.weight)
    right = weight.clone()

    def change(hidden: torch.Tensor) -> torch.Tensor:
        weight[3, 3] += 0.0078125
        return hidden

    take_back = output(engine, places(engine.model).layer(layer).mlp_out, change)

    def undo() -> None:
        take_back()
        weight.copy_(right)
        changed(engine)

    return undo


def inputs_written(engine: Any, rank: int) -> Undo:
    """`generate` writes to the ids that it was given, after it has read them."""
    right = engine.generate

    def generate(batch: Any, new_tokens: int) -> Any:
        found = right(batch, new_tokens)
        if batch.ids.flags.writeable:
            np.add(batch.ids, 1, out=batch.ids)
        return found

    return replaced(engine, "generate", generate)


def beyond(engine: Any, rank: int, *, positions: int = 4096) -> Undo:
    """A pass over more than `positions` tokens gives NaN: a table that ends."""

    def change(logits: torch.Tensor) -> torch.Tensor:
        return logits * torch.nan if longest[0] > positions else logits

    longest = [0]

    def note(hidden: torch.Tensor) -> torch.Tensor:
        longest[0] = hidden.shape[1]
        return hidden

    first = output(engine, places(engine.model).layers[0].norm_in, note)
    second = output(engine, places(engine.model).head, change)

    def undo() -> None:
        second()
        first()

    return undo
