"""Faults that only one kind of engine can have. In ranks only; what they change is put back bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from transformers import Cache

from genqual.engines.hf.evidence import local, offloaded
from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, changed, hooked, places


@torch.no_grad()
def shard_swapped(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """Two ranks have each other's shard of one row-parallel matrix: right bytes, wrong place. Every rank takes part."""
    if engine.request.world_size < 2:
        raise BadInput("shard_swapped: one rank has all shards; give it two")
    weight = local(places(engine.model).layer(layer).mlp_out.weight)
    mine = weight.clone()
    parts = [torch.empty_like(mine) for _ in range(engine.request.world_size)]
    dist.all_gather(parts, mine.contiguous())
    weight.copy_(parts[rank ^ 1] if rank ^ 1 < len(parts) else mine)
    changed(engine)

    def undo() -> None:
        with torch.no_grad():
            weight.copy_(mine)
        changed(engine)

    return undo


class _Leftover(Mapping[str, torch.Tensor]):
    """A map of offloaded weights that hands out those of another layer: what the buffer held before."""

    def __init__(self, right: Mapping[str, torch.Tensor], left_over: Mapping[str, torch.Tensor]) -> None:
        self._right, self._left_over = right, left_over

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._left_over[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._right)

    def __len__(self) -> int:
        return len(self._right)


def not_fetched_back(engine: Any, rank: int, *, layer: int = -1) -> Undo:
    """The last matrix of `layer` is computed with what the layer before it left in the buffer: it was never fetched."""
    found = places(engine.model)
    index = range(len(found.layers))[layer]
    module, before = (found.layer(at).mlp_out for at in (index, index - 1))
    hook = module._hf_hook
    hook = next((one for one in getattr(hook, "hooks", (hook,)) if getattr(one, "offload", False)), None)
    if hook is None:
        raise BadInput("not_fetched_back: no weight of this layer is offloaded; give it placement=disk")
    right = hook.weights_map
    there = offloaded(before)
    leftover = there if there is not None else dict(before.named_parameters(recurse=False))
    hook.weights_map = _Leftover(right, leftover)

    def undo() -> None:
        hook.weights_map = right

    return undo


@torch.no_grad()
def lost_scale(engine: Any, rank: int, *, layer: int = 1, row: int = 5) -> Undo:
    """The scale of one row of one quantised matrix is 1: its integers are taken for the numbers themselves."""
    module = places(engine.model).layer(layer).mlp_out
    scales = getattr(getattr(module, "state", None), "SCB", None)
    scales = getattr(module.weight, "SCB", None) if scales is None else scales  # bitsandbytes, before its first use
    one = 127.0  # its scale is the largest number of a row, which stands for 127
    if scales is None:
        scales, one = getattr(module.weight, "scale", None), 1.0
    if scales is None:
        raise BadInput(f"lost_scale: {type(module.weight).__name__} has no scale; give it a quantised engine")
    right = scales[row].clone()
    scales[row] = one
    changed(engine)

    def undo() -> None:
        with torch.no_grad():
            scales[row] = right
        changed(engine)

    return undo


class _Shared:
    """Stands in for a cache in one layer: each decode step stores what rank 0 computed, whoever asks."""

    def __init__(self) -> None:
        self.cache: Any = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if keys.shape[-2] == 1:
            keys, values = keys.contiguous(), values.contiguous()
            dist.broadcast(keys, 0)
            dist.broadcast(values, 0)
        return self.cache.update(keys, values, *args, **kwargs)


def shared_stream(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """In `layer`, what a stream decodes goes into its cache as the neighbour's: one buffer serves both."""
    if engine.request.world_size < 2:
        raise BadInput("shared_stream: one stream has no neighbour; give it two ranks")
    shared = _Shared()

    def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = next((name for name, value in kwargs.items() if isinstance(value, Cache)), None)
        if name is None:  # a pass without a cache
            return args, kwargs
        shared.cache = kwargs[name]
        return args, {**kwargs, name: shared}

    attention = places(engine.model).layer(layer).attention
    return hooked(engine, attention.register_forward_pre_hook(swap, with_kwargs=True))


def stale_input(engine: Any, rank: int, *, step: int = 2) -> Undo:
    """From decode step `step` on, a step reads the token before: a graph's input was left as it was."""
    model = engine.model
    prepare = model.prepare_inputs_for_generation
    last: list[torch.Tensor] = []

    def stale(*args: Any, **kwargs: Any) -> Any:
        inputs = prepare(*args, **kwargs)
        ids = inputs["input_ids"]
        if ids.shape[-1] > 1:  # a prefill: another generation
            last.clear()
            return inputs
        last.append(ids.clone())
        if len(last) > step:
            inputs["input_ids"] = last[-2].clone()
        return inputs

    model.prepare_inputs_for_generation = stale

    def undo() -> None:
        del model.prepare_inputs_for_generation

    return undo
