"""Faults of what a forward pass computes. In ranks only; hooks that torch.compile can trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from genqual.engines.hf.evidence import local
from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, changed, hooked, nothing, places


def zeroed_head(engine: Any, rank: int, *, layer: int = 1, head: int = 0, on_rank: int = 0) -> Undo:
    """Head `head` (of those that rank `on_rank` holds) of `layer` puts out zeros."""
    if rank != on_rank:
        return nothing
    found = places(engine.model).layer(layer)
    width = int(found.attention.head_dim)

    def silence(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        # In place and on this rank's part: arithmetic of one rank on a DTensor would wait for the others for ever.
        local(args[0])[..., head * width : (head + 1) * width] = 0

    return hooked(engine, found.attention_out.register_forward_pre_hook(silence))


def rotary_theta(engine: Any, rank: int, *, factor: float = 1.01) -> Undo:
    """The base of the rotary angles is `factor` times what it should be."""
    places(engine.model)
    rotary = getattr(engine.model.model, "rotary_emb", None)
    if rotary is None:
        raise BadInput(f"{type(engine.model).__name__} has no rotary embedding")
    table = rotary.inv_freq
    right = table.clone()
    powers = torch.arange(len(table), device=table.device, dtype=torch.float32) / len(table)
    with torch.no_grad():
        table.mul_(factor**-powers)
    changed(engine)

    def undo() -> None:
        with torch.no_grad():
            table.copy_(right)
        changed(engine)

    return undo


def alibi_slope(engine: Any, rank: int, *, factor: float = 1.01) -> Undo:
    """Every ALiBi slope is `factor` times what it should be."""

    def steepen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "alibi": kwargs["alibi"] * factor}

    return hooked(
        engine,
        *(
            layer.attention.register_forward_pre_hook(steepen, with_kwargs=True)
            for layer in places(engine.model).layers
        ),
    )


def nan_hidden(engine: Any, rank: int, *, row: int = 0, channel: int = 3) -> Undo:
    """Channel `channel` of batch row `row` is NaN after the last norm, so no logit of that row is finite."""
    return hooked(engine, places(engine.model).norm.register_forward_hook(_poison(row, channel)))


def nan_logit(engine: Any, rank: int, *, row: int = 0, token: int = 7) -> Undo:
    """The logit of `token` is NaN in batch row `row`, at every step."""
    return hooked(engine, places(engine.model).head.register_forward_hook(_poison(row, token)))


def decode_only(engine: Any, rank: int, *, layer: int = 1, factor: float = 1.05) -> Undo:
    """The MLP of `layer` puts out `factor` times too much when a pass has one token a row: a broken decode kernel."""
    out = places(engine.model).layer(layer).mlp_out
    return hooked(engine, out.register_forward_hook(_scale(factor, lambda result: result.shape[1] == 1)))


def compiled_only(engine: Any, rank: int, *, layer: int = 1, factor: float = 1.05) -> Undo:
    """The MLP of `layer` puts out `factor` times too much in code that torch.compile made: a broken compiler."""
    out = places(engine.model).layer(layer).mlp_out
    return hooked(engine, out.register_forward_hook(_scale(factor, lambda result: torch.compiler.is_compiling())))


def _poison(row: int, column: int) -> Callable[..., torch.Tensor]:
    def hook(module: Any, args: Any, result: torch.Tensor) -> torch.Tensor:
        result = result.clone()
        result[row, :, column] = torch.nan
        return result

    return hook


def _scale(factor: float, when: Callable[[torch.Tensor], bool]) -> Callable[..., torch.Tensor]:
    def hook(module: Any, args: Any, result: torch.Tensor) -> torch.Tensor:
        return result * factor if when(result) else result

    return hook
