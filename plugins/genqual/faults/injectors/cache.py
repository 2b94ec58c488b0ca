"""Faults of the key-value cache. In ranks only; they show in decoding, never in a pass without a cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache

from genqual.faults.injectors.places import Undo, hooked, places


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


def _attention(engine: Any, layer: int) -> Any:
    """The attention of `layer`; a latent one, which has no one linear for keys, is found by its name."""
    found = places(engine.model).layer(layer)
    return getattr(found.block, "self_attn", None) or found.attention


def stale_kv(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """In `layer`, a decoded token's key and value never reach the cache: its slot holds those of the token before."""
    lagging = _Lagging()

    def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = next((name for name, value in kwargs.items() if isinstance(value, Cache)), None)
        if name is None:  # a pass without a cache
            return args, kwargs
        lagging.cache = kwargs[name]
        return args, {**kwargs, name: lagging}

    attention = _attention(engine, layer)
    return hooked(engine, attention.register_forward_pre_hook(swap, with_kwargs=True))


class _Altered:
    """Stands in for a cache in one layer: what it gives back (keys, values) is altered, what it stores is not."""

    def __init__(self, change: Any) -> None:
        self.cache: Any = None
        self._change = change

    def update(self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        all_keys, all_values = self.cache.update(keys, values, *args, **kwargs)
        return self._change(all_keys, all_values, keys.shape[-2])


def _altering(engine: Any, layer: int, change: Any) -> Undo:
    stand_in = _Altered(change)

    def swap(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = next((name for name, value in kwargs.items() if isinstance(value, Cache)), None)
        if name is None:
            return args, kwargs
        stand_in.cache = kwargs[name]
        return args, {**kwargs, name: stand_in}

    attention = _attention(engine, layer)
    return hooked(engine, attention.register_forward_pre_hook(swap, with_kwargs=True))


def altered_kv(engine: Any, rank: int, *, how: str, layer: int = 1, window: int = 8, bits: int = 3) -> Undo:
    """In decode steps `layer` reads a cache that is wrong by `how`.

    clobbered: the newest key stands in the oldest slot too; shifted: values one place late; rows: rows 0 and 1 change
    places; shared: every row reads row 0; dropped: keys before the last `window` are zero; coarse: `bits` of mantissa;
    swapped: keys and values change places; parts: a second pass over several tokens finds zeros before it.
    """

    def change(keys: torch.Tensor, values: torch.Tensor, new: int) -> tuple[torch.Tensor, torch.Tensor]:
        old = keys.shape[-2] - new
        if how == "parts":
            if old and new > 1:
                keys, values = keys.clone(), values.clone()
                keys[..., :old, :] = 0
                values[..., :old, :] = 0
            return keys, values
        if new > 1 or not old:
            return keys, values
        keys, values = keys.clone(), values.clone()
        if how == "clobbered":
            keys[..., 0, :] = keys[..., -1, :]
        elif how == "shifted":
            values = torch.cat([values[..., :1, :], values[..., :-1, :]], dim=-2)
        elif how == "rows" and keys.shape[0] > 1:
            order = torch.tensor([1, 0, *range(2, keys.shape[0])])
            keys, values = keys[order], values[order]
        elif how == "shared":
            keys, values = keys[:1].expand_as(keys), values[:1].expand_as(values)
        elif how == "dropped":
            keys[..., : max(0, old - window), :] = 0
        elif how == "coarse":
            whole, power = torch.frexp(values.float())
            values = torch.ldexp((whole * 2 ** (bits + 1)).round() / 2 ** (bits + 1), power).to(values.dtype)
        elif how == "swapped":
            keys, values = values, keys
        return keys, values

    return _altering(engine, layer, change)


def kv_of_before(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """The first decode step of a request finds the oldest key of the request before: two share a block of cache."""
    kept: list[torch.Tensor] = []

    def change(keys: torch.Tensor, values: torch.Tensor, new: int) -> tuple[torch.Tensor, torch.Tensor]:
        if new > 1:
            if kept:
                kept[:] = [kept[-1]]
            kept.append(values[:1, :, -1:, :].detach().clone())
            return keys, values
        if len(kept) == 2:
            values = values.clone()
            values[..., :1, :] = kept[0]
        return keys, values

    return _altering(engine, layer, change)


def crop_forgets(engine: Any, rank: int, *, layer: int = 1) -> Undo:
    """Cropping a cache leaves its last key where it was: what follows reads a token that was taken back."""
    last: dict[int, torch.Tensor] = {}

    def change(keys: torch.Tensor, values: torch.Tensor, new: int) -> tuple[torch.Tensor, torch.Tensor]:
        longest = last.get(0)
        last[0] = values.detach().clone()
        if longest is not None and longest.shape[0] == values.shape[0] and longest.shape[-2] > values.shape[-2]:
            values = values.clone()
            place = values.shape[-2] - 1
            values[..., place, :] = longest[..., place, :]
        return keys, values

    return _altering(engine, layer, change)
