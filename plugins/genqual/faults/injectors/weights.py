"""Faults of the weights: in place, on one rank, taken back bit by bit. In ranks only."""

from __future__ import annotations

from typing import Any

import torch

from genqual.engines.hf.evidence import local
from genqual.faults.injectors.places import Undo, changed, nothing, places


def _matrix(engine: Any, layer: int) -> torch.Tensor:
    """This rank's part of the last matrix of a layer's MLP, (hidden, its share of the intermediate)."""
    return local(places(engine.model).layer(layer).mlp_out.weight)


def _restoring(engine: Any, weight: torch.Tensor, index: Any) -> Undo:
    right = weight[index].clone()

    def undo() -> None:
        weight[index] = right
        changed(engine)

    return undo


@torch.no_grad()
def sign_flip(engine: Any, rank: int, *, layer: int = 1, on_rank: int = 0) -> Undo:
    """The largest weight of the matrix has the other sign."""
    if rank != on_rank:
        return nothing
    weight = _matrix(engine, layer)
    row, column = divmod(int(weight.abs().argmax()), weight.shape[1])
    undo = _restoring(engine, weight, (row, column))
    weight[row, column] *= -1
    changed(engine)
    return undo


@torch.no_grad()
def row_zeroed(engine: Any, rank: int, *, layer: int = 1, row: int = 5, on_rank: int = 0) -> Undo:
    """Row `row` of the matrix, which makes one hidden channel, is zero."""
    if rank != on_rank:
        return nothing
    weight = _matrix(engine, layer)
    undo = _restoring(engine, weight, row)
    weight[row] = 0
    changed(engine)
    return undo
