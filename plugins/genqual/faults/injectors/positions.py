"""Faults of positions: which place a token is given, and what rotary or ALiBi make of it. In ranks only."""

from __future__ import annotations

from typing import Any

import torch

from genqual.faults.injectors.places import Undo, all_of, base_of, keywords, output, places


def positions(engine: Any, rank: int, *, shift: int = 0, wrap: int = 0, decode_only: bool = False) -> Undo:
    """Position ids are `shift` too large, or start again after `wrap`; only where one token is read, if asked."""

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        ids = kwargs.get("position_ids")
        if ids is not None and (ids.shape[-1] == 1 or not decode_only):
            kwargs["position_ids"] = (ids + shift) % wrap if wrap else ids + shift
        return kwargs

    return keywords(engine, base_of(engine.model), change)


def rotary_angles(engine: Any, rank: int, *, sine: float = 1.0, swap: bool = False) -> Undo:
    """The sine of every rotary angle is `sine` times what it should be, or changes places with the cosine."""

    def hook(_module: Any, _args: Any, result: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = result
        return (sin, cos) if swap else (cos, sin * sine)

    places(engine.model)
    handle = engine.model.model.rotary_emb.register_forward_hook(hook)
    return handle.remove


def alibi(
    engine: Any, rank: int, *, factor: float = 1.0, add: float = 0.0, roll: int = 0, layer: int | None = None
) -> Undo:
    """ALiBi's biases times `factor` plus `add`, or those of the head `roll` further on; in all layers or one."""

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        biases = kwargs["alibi"]
        heads = engine.model.config.n_head if engine.request.world_size == 1 else biases.shape[0]
        if roll:
            biases = biases.unflatten(0, (-1, heads)).roll(roll, dims=1).flatten(0, 1)
        kwargs["alibi"] = biases * factor + add
        return kwargs

    found = places(engine.model).layers
    chosen = found if layer is None else (found[layer],)
    return all_of(*(keywords(engine, one.attention, change) for one in chosen))


def causal_leak(engine: Any, rank: int, *, layer: int = 1, share: float = 0.01) -> Undo:
    """In a pass over several tokens each sees `share` of what the next one is: the mask lets the future through."""

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] == 1:
            return hidden
        ahead = torch.cat([hidden[:, 1:], hidden[:, -1:] * 0], dim=1)
        return hidden + share * ahead

    return output(engine, places(engine.model).layer(layer).norm_in, change)


def mask(engine: Any, rank: int, *, ones: bool = False, shift: int = 0) -> Undo:
    """The padding mask is ignored, or its edge lies `shift` tokens too far right: first tokens are not attended to."""

    def change(kwargs: dict[str, Any]) -> dict[str, Any]:
        given = kwargs.get("attention_mask")
        if given is not None and given.dim() == 2 and not bool(given.all()):
            if ones:
                kwargs["attention_mask"] = torch.ones_like(given)
            else:
                moved = given.roll(shift, dims=1)
                moved[:, -1] = 1
                kwargs["attention_mask"] = given * moved
        return kwargs

    return keywords(engine, base_of(engine.model), change)
