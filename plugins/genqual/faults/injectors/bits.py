"""Faults of stored weights: bits, rows, columns, layers, in place and taken back bit by bit. In ranks only."""

from __future__ import annotations

from typing import Any

import torch

from genqual.dtypes import FORMATS
from genqual.engines.hf.evidence import local
from genqual.faults.injectors.places import Undo, changed, nothing, places


def _with_fault(engine: Any, weight: torch.Tensor, wrong: torch.Tensor) -> Undo:
    right = weight.clone()
    weight.copy_(wrong)
    changed(engine)

    def undo() -> None:
        weight.copy_(right)
        changed(engine)

    return undo


def _weight(engine: Any, part: str, layer: int) -> torch.Tensor:
    return local(places(engine.model).part(part, layer).weight)


@torch.no_grad()
def bit(
    engine: Any, rank: int, *, part: str = "mlp_out", layer: int = 1, exponent: bool = False, on_rank: int = 0
) -> Undo:
    """One bit of the largest weight: the lowest of its exponent (twice or half), or the highest of its mantissa."""
    if rank != on_rank:
        return nothing
    weight = _weight(engine, part, layer)
    wrong = weight.clone()
    row, column = divmod(int(weight.abs().argmax()), weight.shape[1])
    mantissa = {getattr(torch, one.torch): one.mantissa for one in FORMATS.values()}[weight.dtype]
    raw = wrong.view(torch.int32 if weight.dtype == torch.float32 else torch.int16)
    raw[row, column] ^= 1 << (mantissa if exponent else mantissa - 1)
    return _with_fault(engine, weight, wrong)


@torch.no_grad()
def rows(
    engine: Any,
    rank: int,
    *,
    part: str = "mlp_out",
    layer: int = 1,
    first: int = 5,
    count: int = 1,
    how: str = "zero",
    factor: float = 1.0,
    add: float = 0.0,
    on_rank: int = 0,
) -> Undo:
    """`count` rows of a matrix from `first`: zero, swapped with the next, reversed, NaN, or scaled."""
    if rank != on_rank:
        return nothing
    weight = _weight(engine, part, layer)
    wrong, chosen = weight.clone(), slice(first, first + count)
    if how == "zero":
        wrong[chosen] = 0
    elif how == "swap":
        wrong[chosen], wrong[first + count : first + 2 * count] = (
            weight[first + count : first + 2 * count],
            weight[chosen],
        )
    elif how == "reverse":
        wrong[chosen] = weight[chosen].flip(1)
    elif how == "nan":
        wrong[chosen] = torch.nan
    else:
        wrong[chosen] = weight[chosen] * factor + add
    return _with_fault(engine, weight, wrong)


@torch.no_grad()
def columns(engine: Any, rank: int, *, part: str = "mlp_out", layer: int = 1, roll: int = 0, drop: int = 0) -> Undo:
    """The columns of this rank's part are `roll` places further on (shards out of order), or the last lost."""
    weight = _weight(engine, part, layer)
    wrong = weight.roll(roll, dims=1).clone()
    if drop:
        wrong[:, -drop:] = 0
    return _with_fault(engine, weight, wrong)


@torch.no_grad()
def other_layer(engine: Any, rank: int, *, part: str = "mlp_out", layer: int = 1, of: int = 0) -> Undo:
    """A layer computes with the weights of layer `of`: what was offloaded was not fetched back."""
    return _with_fault(engine, _weight(engine, part, layer), _weight(engine, part, of))


@torch.no_grad()
def bias(engine: Any, rank: int, *, part: str = "attention_out", layer: int = 1, factor: float = 0.0) -> Undo:
    """A bias is `factor` times what it should be: left out, or added by each rank."""
    weight = local(places(engine.model).part(part, layer).bias)
    return _with_fault(engine, weight, weight * factor)


@torch.no_grad()
def norm_weight(engine: Any, rank: int, *, part: str = "norm_in", layer: int = 1) -> Undo:
    """A norm's weights are all one."""
    weight = local(places(engine.model).part(part, layer).weight)
    return _with_fault(engine, weight, torch.ones_like(weight))


@torch.no_grad()
def quantised(
    engine: Any,
    rank: int,
    *,
    part: str = "mlp_out",
    layer: int = 1,
    bits: int = 8,
    zero: float = 0.0,
    scale: float = 1.0,
) -> Undo:
    """A matrix is rounded to `bits` by one scale, `scale` times the right one; the zero point is `zero` off."""
    weight = _weight(engine, part, layer)
    step = weight.abs().max() / (2 ** (bits - 1) - 1)
    return _with_fault(engine, weight, ((weight / step).round() + zero) * step * scale)
