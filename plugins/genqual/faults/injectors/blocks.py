"""Faults of what a part of a layer computes: heads, norms, activations, residuals. In ranks only."""

from __future__ import annotations

from typing import Any, Final

import torch

from genqual.engines.hf.evidence import local
from genqual.faults.injectors.places import Undo, changed, first_input, output, places, replaced, width_of_head

WHEN: Final = {
    "always": lambda tensor: True,
    "decode": lambda tensor: tensor.shape[1] == 1,
    "prefill": lambda tensor: tensor.shape[1] > 1,
    "long": lambda tensor: tensor.shape[1] > 64,
}


def scaled(
    engine: Any,
    rank: int,
    *,
    part: str,
    factor: float,
    layer: int = 1,
    when: str = "always",
    on_rank: int | None = None,
) -> Undo:
    """What `part` puts out is `factor` times what it should be: always, or in passes of one token, several, many."""
    holds = WHEN[when]
    if on_rank not in (None, rank):
        factor = 1.0  # every rank has the hook, so that none waits for another's shape

    def change(result: torch.Tensor) -> torch.Tensor:
        return result * factor if holds(result) else result

    return output(engine, places(engine.model).part(part, layer), change)


def clipped(engine: Any, rank: int, *, part: str = "activation", layer: int = 1, most: float = 3.0) -> Undo:
    """What `part` puts out never exceeds `most`: a lookup table that ends too soon."""
    return output(engine, places(engine.model).part(part, layer), lambda result: result.clamp(max=most))


def bypassed(engine: Any, rank: int, *, part: str = "norm_post", layer: int = 1) -> Undo:
    """`part` gives back what it was given."""
    module = places(engine.model).part(part, layer)
    undo = replaced(module, "forward", lambda hidden, *args, **kwargs: hidden)
    changed(engine)
    return undo


def epsilon(engine: Any, rank: int, *, value: float = 1e-3) -> Undo:
    """Every norm adds `value` where it should add 1e-5."""
    found = places(engine.model)
    norms = [norm for layer in found.layers for norm in (layer.norm_in, layer.norm_post)] + [found.norm]
    name = "variance_epsilon" if hasattr(norms[0], "variance_epsilon") else "eps"
    right = [getattr(norm, name) for norm in norms]
    for norm in norms:
        setattr(norm, name, value)
    changed(engine)

    def undo() -> None:
        for norm, before in zip(norms, right, strict=True):
            setattr(norm, name, before)
        changed(engine)

    return undo


def other_activation(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """A layer has the exact GELU, where SiLU (Llama) or its tanh approximation (BLOOM) belongs."""
    undo = replaced(places(engine.model).layer(layer).activation, "forward", torch.nn.functional.gelu)
    changed(engine)
    return undo


def heads(engine: Any, rank: int, *, layer: int = 1, roll: int = 0, factor: float = 1.0, head: int = 0) -> Undo:
    """The outputs of a layer's heads change places, `roll` further on, or one of them is `factor` times too large."""
    width = width_of_head(engine.model)

    def change(mixed: torch.Tensor) -> torch.Tensor:
        if roll:
            return mixed.roll(roll * width, dims=-1)
        mixed = mixed.clone()
        local(mixed)[..., head * width : (head + 1) * width] *= factor
        return mixed

    return first_input(engine, places(engine.model).layer(layer).attention_out, change)


def key_heads(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """Grouped queries meet the keys of the next group."""
    width = width_of_head(engine.model)
    return output(engine, places(engine.model).layer(layer).attention_in, lambda keys: keys.roll(width, dims=-1))


def constant(engine: Any, rank: int, *, value: float = 1.0) -> Undo:
    """Every logit is `value` larger: greedy choice, and everything judged here, ignores it."""
    return output(engine, places(engine.model).head, lambda logits: logits + value)


def share_lost(engine: Any, rank: int, *, first: float = 0.5, last: float = 0.625, value: float = -20.0) -> Undo:
    """The logits of a share of the vocabulary are `value`, as of a shard that was never gathered."""

    def change(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        count = logits.shape[-1]
        logits[..., int(first * count) : int(last * count)] = value
        return logits

    return output(engine, places(engine.model).head, change)


def head_halves(engine: Any, rank: int) -> Undo:
    """Another fault-free kernel: the head's product is made in two halves of the vocabulary."""
    head = places(engine.model).head

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        upper, lower = head.weight.chunk(2)
        return torch.cat([hidden @ upper.T, hidden @ lower.T], dim=-1)

    undo = replaced(head, "forward", forward)
    changed(engine)
    return undo
