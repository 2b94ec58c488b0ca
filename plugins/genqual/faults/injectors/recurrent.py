"""Faults of layers that keep a state of fixed size in place of keys: convolutions and delta rules. In ranks only."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache

from genqual.errors import BadInput
from genqual.faults.injectors.places import Undo, hooked, keywords, places


def mixer_of(engine: Any, layer: int | None) -> Any:
    """The recurrent mixer of `layer`, or of the first layer that has one. Raises BadInput."""
    layers = places(engine.model).layers
    for index in range(len(layers)) if layer is None else (layer,):
        found = getattr(layers[index].block, "linear_attn", None)
        if found is not None:
            return found
    raise BadInput("no layer of this model keeps a recurrent state")


class _Wrong:
    """Stands in for a cache in one layer, and changes what it says of that layer's state by `how`."""

    def __init__(self, how: str) -> None:
        self.cache: Any = None
        self.how = how
        self.rows = 1  # of the pass that is made
        self.odd = False
        self.last: torch.Tensor | None = None  # the state that was stored last, whichever request it was of

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def get_conv_state(self, index: int, **more: Any) -> Any:
        state = self.cache.get_conv_state(index, **more)
        if state is not None and self.how.startswith("conv"):
            state.copy_(_conv(state, self.how))  # in place: the step writes into it
        return state

    def get_recurrent_state(self, index: int, **more: Any) -> Any:
        state = self.cache.get_recurrent_state(index, **more)
        if state is None and self.how == "kept" and self.last is not None:
            return self.last[:1].expand(self.rows, *self.last.shape[1:]).contiguous()
        return state.flip(0) if state is not None and self.how == "rows" else state

    def update_recurrent_state(self, state: torch.Tensor, index: int, **more: Any) -> Any:
        before = self.cache.get_recurrent_state(index, **more)
        if self.how == "stale" and before is not None:
            self.odd = not self.odd
            state = before.clone() if self.odd else state
        elif self.how == "coarse":
            state = state.bfloat16().to(state.dtype)
        self.last = state.detach().clone()
        return self.cache.update_recurrent_state(state, index, **more)


def _conv(state: torch.Tensor, how: str) -> torch.Tensor:
    if how == "conv_shifted":
        return state.roll(1, dims=-1)
    return torch.zeros_like(state) if how == "conv_lost" else state.flip(0)


def state(engine: Any, rank: int, *, how: str, layer: int | None = None) -> Undo:
    """In decode steps a layer's state is wrong by `how`.

    conv_shifted: the window of its convolution is one token off; conv_lost: empty; conv_rows: rows read each other's.
    kept: a request begins with the state that the request before left. stale: every second step does not store its
    state. rows: rows read each other's state. coarse: the state is kept in bf16.
    """
    stand_in = _Wrong(how)

    def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = next((name for name, value in kwargs.items() if isinstance(value, Cache)), None)
        if name is None:
            return args, kwargs
        stand_in.cache = kwargs[name]
        stand_in.rows = len(args[0] if args else kwargs["hidden_states"])
        return args, {**kwargs, name: stand_in}

    return hooked(engine, mixer_of(engine, layer).register_forward_pre_hook(swap, with_kwargs=True))


def padding(engine: Any, rank: int, *, layer: int | None = None) -> Undo:
    """A layer's state reads the padding of a batch as if it were text."""
    return keywords(engine, mixer_of(engine, layer), lambda kwargs: {**kwargs, "attention_mask": None})
