"""Faults of the key-value cache. In ranks only; they show in decoding, never in a pass without a cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache

from genqual.conformance.faults.places import Undo, hooked, places


class _Lagging:
    """Stands in for a cache in one layer: at each decode step it stores what the step before should have stored."""

    def __init__(self) -> None:
        self.cache: Any = None
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        late = self._last
        self._last = (keys[..., -1:, :], values[..., -1:, :])
        if late is not None and keys.shape == late[0].shape:
            keys, values = late
        return self.cache.update(keys, values, *args, **kwargs)


def stale_kv(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """In `layer`, a decoded token's key and value never reach the cache: its slot holds those of the token before."""
    lagging = _Lagging()

    def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = next((name for name, value in kwargs.items() if isinstance(value, Cache)), None)
        if name is None:  # a pass without a cache
            return args, kwargs
        lagging.cache = kwargs[name]
        return args, {**kwargs, name: lagging}

    attention = places(engine.model).layer(layer).attention
    return hooked(engine, attention.register_forward_pre_hook(swap, with_kwargs=True))
