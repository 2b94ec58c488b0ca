"""Single bits that turn over while a request runs: of a weight, an activation, the cache, a collective. In ranks only.

What a defective memory cell, register or link does. `after` counts forward passes of the model from the injection on.
A bit of -1 writes NaN instead, one of -2 an infinity.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import Cache

from genqual.engines.hf.evidence import local
from genqual.errors import BadInput
from genqual.faults.injectors.flip_bit import flip
from genqual.faults.injectors.places import Undo, all_of, base_of, changed, hooked, nothing, output, places
from genqual.faults.injectors.strikes import Strikes


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
    right, strikes = matrix[index].clone(), Strikes(element, after)

    def count(module: Any, args: Any) -> None:
        if strikes.due():
            flip(matrix, index, bit)
            changed(engine)

    unhook = hooked(engine, base_of(engine.model).register_forward_pre_hook(count))

    def undo() -> None:
        matrix[index] = right
        changed(engine)

    return all_of(undo, unhook)


def activation(
    engine: Any, rank: int, *, bit: int, element: int = 0, part: str = "mlp_out", layer: int = 1, after: int = 0,
    every: int = 0, on_rank: int = 0,
) -> Undo:  # fmt: skip
    """Bit `bit` of one number that `part` of `layer` puts out turns over in pass `after`: in that pass only.

    With `every` it does so again about every so many passes, to another number.
    """
    if rank != on_rank:
        return nothing
    strikes = Strikes(element, after, every)

    def change(hidden: torch.Tensor) -> torch.Tensor:
        if not strikes.due():
            return hidden
        hidden = hidden.clone()
        flip(hidden, _index(hidden, strikes.place()), bit)
        return hidden

    return output(engine, places(engine.model).part(part, layer), change)


def collective(
    engine: Any, rank: int, *, bit: int, element: int = 0, part: Literal["attention_out", "mlp_out"] = "mlp_out",
    layer: int = 1, after: int = 0, every: int = 0, on_rank: int = 1,
) -> Undo:  # fmt: skip
    """As `activation`, of the sum that rank `on_rank` gets from one all-reduce; the other ranks get the right one.

    Raises BadInput on one rank.
    """
    if engine.request.world_size < 2:
        raise BadInput("collective: one rank reduces nothing; give it two")
    return activation(engine, rank, bit=bit, element=element, part=part, layer=layer, after=after, every=every,
                      on_rank=on_rank)  # fmt: skip


def cache(
    engine: Any, rank: int, *, bit: int, element: int = 0, layer: int = 1, after: int = 0, every: int = 0,
    what: Literal["keys", "values"] = "values", on_rank: int = 0,
) -> Undo:  # fmt: skip
    """Bit `bit` of one number in `what` that `layer` keeps turns over at pass `after`, for the rest of the request.

    A number of the newest token of the first row: every later step of the row reads it. With `every` again, as above.
    """
    if rank != on_rank:
        return nothing
    strikes = Strikes(element, after, every)

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        due = strikes.due()
        kept = next((value for value in kwargs.values() if isinstance(value, Cache)), None)
        if due and kept is not None:
            stored, number = getattr(kept.layers[layer], what), strikes.place()
            flip(stored, (0, number % stored.shape[1], stored.shape[2] - 1, number % stored.shape[3]), bit)

    attention = places(engine.model).layer(layer).attention
    return hooked(engine, attention.register_forward_hook(note, with_kwargs=True))


def _index(tensor: torch.Tensor, element: int) -> tuple[int, ...]:
    index, rest = [], element % tensor.numel()
    for size in reversed(tensor.shape):
        rest, place = divmod(rest, size)
        index.append(place)
    return tuple(reversed(index))
