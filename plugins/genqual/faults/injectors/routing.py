"""Faults of mixtures of experts: which experts a token is given to, and by how much each counts. In ranks only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch

from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, first_input, hooked, places

Routed: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""What a router says: logits (tokens, experts), weights and indices of the chosen (tokens, chosen)."""

ROUTERS: Final = ("gate", "router")


def router_of(engine: Any, layer: int | None) -> Any:
    """The router of `layer`, or of the first layer that has one. Raises BadInput."""
    layers = places(engine.model).layers
    for index in range(len(layers)) if layer is None else (layer,):
        mlp = getattr(layers[index].block, "mlp", None)
        for name in ROUTERS if hasattr(mlp, "experts") else ():
            if hasattr(mlp, name):
                return getattr(mlp, name)
    raise BadInput("no layer of this model has a router")


def _wrong_expert(said: Routed) -> Routed:
    logits, weights, chosen = said
    chosen = chosen.clone()
    chosen[:, 0] = (chosen[:, 0] + 1) % logits.shape[-1]
    return logits, weights, chosen


def _neighbours_expert(said: Routed) -> Routed:
    logits, weights, chosen = said
    return logits, weights.roll(1, dims=0), chosen.roll(1, dims=0)


def _exchanged(said: Routed) -> Routed:
    logits, weights, chosen = said
    return logits, weights.flip(-1), chosen


def _one_lost(said: Routed) -> Routed:
    logits, weights, chosen = said
    weights = weights.clone()
    weights[torch.arange(len(weights)), weights.argmin(dim=-1)] = 0
    return logits, weights, chosen


def _equal(said: Routed) -> Routed:
    logits, weights, chosen = said
    return logits, weights.mean(dim=-1, keepdim=True).expand_as(weights), chosen


def _unnormalised(said: Routed) -> Routed:
    """Each weight is its share of all experts, not of the chosen ones."""
    logits, weights, chosen = said
    shares = logits.float().softmax(dim=-1).gather(1, chosen).sum(dim=-1, keepdim=True)
    return logits, (weights * shares).to(weights.dtype), chosen


def _dropped(said: Routed, capacity: int = 6) -> Routed:
    """An expert takes `capacity` tokens of a pass; what comes later is dropped."""
    logits, weights, chosen = said
    taken = torch.nn.functional.one_hot(chosen, logits.shape[-1]).sum(dim=1).cumsum(dim=0)  # (tokens, experts)
    return logits, weights * (taken.gather(1, chosen) <= capacity), chosen


HOW: Final[dict[str, Callable[[Routed], Routed]]] = {
    "wrong": _wrong_expert,
    "neighbours": _neighbours_expert,
    "exchanged": _exchanged,
    "one_lost": _one_lost,
    "equal": _equal,
    "unnormalised": _unnormalised,
    "dropped": _dropped,
}


def routed(engine: Any, rank: int, *, how: str, layer: int | None = None) -> Undo:
    """What the router of a layer says is changed by one of HOW, in every pass."""
    change = HOW[how]
    return hooked(engine, router_of(engine, layer).register_forward_hook(lambda _m, _a, said: change(said)))


def stale(engine: Any, rank: int, *, layer: int | None = None) -> Undo:
    """A decode step is routed as the step before it was."""
    last: list[Routed] = []

    def hook(_module: Any, _args: Any, said: Routed) -> Routed:
        before = last[-1] if last else None
        last[:] = [said]
        return said if before is None or before[2].shape != said[2].shape else before

    return hooked(engine, router_of(engine, layer).register_forward_hook(hook))


def coarse(engine: Any, rank: int, *, layer: int | None = None) -> Undo:
    """The router of an fp32 run reads its input in bf16."""
    return first_input(engine, router_of(engine, layer), lambda hidden: hidden.bfloat16().to(hidden.dtype))
