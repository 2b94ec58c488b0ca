"""Single bits that turn over while a request runs: of a weight, an activation, the cache. In ranks only.

What a defective memory cell or register does. `after` counts forward passes of the model from the injection on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache

from genqual.engines.hf.evidence import local
from genqual.faults.injectors.flip_bit import flip
from genqual.faults.injectors.places import Undo, all_of, base_of, changed, hooked, nothing, output, places


@torch.no_grad()
def weight(
    engine: Any, rank: int, *, bit: int, element: int = 0, part: str = "mlp_out", layer: int = 1, after: int = 0,
    on_rank: int = 0,
) -> Undo:  # fmt: skip
    """Bit `bit` of a weight turns over before pass `after` and stays so until it is undone."""
    if rank != on_rank:
        return nothing
    matrix = local(places(engine.model).part(part, layer).weight)
    index = divmod(element % matrix.numel(), matrix.shape[1])
    right = matrix[index].clone()

    def strike() -> None:
        flip(matrix, index, bit)
        changed(engine)

    unhook = _at(engine, after, strike)

    def undo() -> None:
        matrix[index] = right
        changed(engine)

    return all_of(undo, unhook)


def activation(
    engine: Any, rank: int, *, bit: int, element: int = 0, layer: int = 1, after: int = 0, on_rank: int = 0
) -> Undo:
    """Bit `bit` of one number that the MLP of `layer` puts out turns over in pass `after`, once."""
    if rank != on_rank:
        return nothing
    passes = 0

    def change(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes != after + 1:
            return hidden
        hidden = hidden.clone()
        flip(hidden, _index(hidden, element), bit)
        return hidden

    return output(engine, places(engine.model).layer(layer).mlp_out, change)


def cache(
    engine: Any, rank: int, *, bit: int, element: int = 0, layer: int = 1, after: int = 0, on_rank: int = 0
) -> Undo:
    """Bit `bit` of one number in the values that `layer` keeps turns over at pass `after`, for the rest of the request.

    A number of the newest token of the first row: every later step of the row reads it.
    """
    if rank != on_rank:
        return nothing
    passes = 0

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        nonlocal passes
        passes += 1
        kept = next((value for value in kwargs.values() if isinstance(value, Cache)), None)
        if passes == after + 1 and kept is not None:
            values = kept.layers[layer].values
            flip(values, (0, element % values.shape[1], values.shape[2] - 1, element % values.shape[3]), bit)

    attention = places(engine.model).layer(layer).attention
    return hooked(engine, attention.register_forward_hook(note, with_kwargs=True))


def _index(tensor: torch.Tensor, element: int) -> tuple[int, ...]:
    index, rest = [], element % tensor.numel()
    for size in reversed(tensor.shape):
        rest, place = divmod(rest, size)
        index.append(place)
    return tuple(reversed(index))


def _at(engine: Any, after: int, act: Callable[[], None]) -> Undo:
    passes = 0

    def count(module: Any, args: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == after + 1:
            act()

    return hooked(engine, base_of(engine.model).register_forward_pre_hook(count))
