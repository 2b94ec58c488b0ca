"""Faults of a module or a weight by its name in a layer, for parts that only some architectures have. In ranks only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, changed, output, places, replaced

CHANGES: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "zero": torch.zeros_like,
    "lost": lambda weight: torch.full_like(weight, -1e4),  # a logit that wins nothing, a rate that decays nothing
    "negated": torch.neg,
    "doubled": lambda weight: weight * 2,
    "less_one": lambda weight: weight - 1,
    "rolled": lambda weight: weight.roll(1, dims=0),
    "reversed": lambda weight: weight.flip(-1),
    "swapped": lambda weight: torch.cat([weight[1:2], weight[:1], weight[2:]]),
    "halves": lambda weight: torch.cat(weight.chunk(2, dim=1)[::-1], dim=1),
    "first_zero": lambda weight: torch.cat([torch.zeros_like(weight[:1]), weight[1:]]),
}


def found(engine: Any, name: str, layer: int | None) -> Any:
    """The submodule `name` of `layer`, or of the first layer that has one. Raises BadInput."""
    layers = places(engine.model).layers
    for index in range(len(layers)) if layer is None else (layer,):
        try:
            return layers[index].block.get_submodule(name)
        except AttributeError:
            continue
    raise BadInput(f"{name}: no such module in {'any layer' if layer is None else f'layer {layer}'} of this model")


def scaled(engine: Any, rank: int, *, module: str, factor: float, layer: int | None = None) -> Undo:
    """What `module` puts out is `factor` times what it should be."""
    return output(engine, found(engine, module, layer), lambda result: result * factor)


def bypassed(engine: Any, rank: int, *, module: str, layer: int | None = None) -> Undo:
    """`module` gives back what it was given."""
    undo = replaced(found(engine, module, layer), "forward", lambda hidden, *args, **kwargs: hidden)
    changed(engine)
    return undo


def attribute(engine: Any, rank: int, *, module: str, name: str, value: Json, layer: int | None = None) -> Undo:
    """`module` computes with another value of its setting `name`."""
    owner = found(engine, module, layer)
    if not hasattr(owner, name):
        raise BadInput(f"{module} has no setting {name!r}")
    undo = replaced(owner, name, value)
    changed(engine)

    def take_back() -> None:
        undo()
        changed(engine)

    return take_back


@torch.no_grad()
def weight(engine: Any, rank: int, *, name: str, how: str, layer: int | None = None) -> Undo:
    """The weight `name` ("self_attn.sinks") is changed by one of CHANGES, and put back bit by bit."""
    module, _, leaf = name.rpartition(".")
    tensor = getattr(found(engine, module, layer), leaf, None)
    if tensor is None:
        raise BadInput(f"{name}: this model has no such weight")
    return _written(engine, tensor, CHANGES[how](tensor))


@torch.no_grad()
def exchanged(engine: Any, rank: int, *, one: str, other: str, layer: int | None = None) -> Undo:
    """Two weights of one shape stand in each other's place."""
    first, second = (found(engine, name, layer).weight for name in (one, other))
    if first.shape != second.shape:
        raise BadInput(f"{one} and {other} differ in shape: {tuple(first.shape)}, {tuple(second.shape)}")
    before = first.clone()
    undo = _written(engine, first, second.clone()), _written(engine, second, before)

    def take_back() -> None:
        undo[1]()
        undo[0]()

    return take_back


def _written(engine: Any, tensor: torch.Tensor, wrong: torch.Tensor) -> Undo:
    right = tensor.clone()
    tensor.copy_(wrong)
    changed(engine)

    def undo() -> None:
        with torch.no_grad():
            tensor.copy_(right)
        changed(engine)

    return undo
