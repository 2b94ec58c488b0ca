"""How far back a model's layers look, by its configuration alone. Pure: the standard library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NAMES: Final = ("sliding_window", "attention_window", "window_size", "attention_chunk_size", "local_window_size")
_KINDS: Final = ("sliding_attention", "chunked_attention", "local")


def windows_said(config: Mapping[str, object]) -> tuple[int, ...]:
    """The windows that a config.json names, in tokens, ascending; those of an architecture that nobody declares.

    One that is switched off, or of which no layer is, is none.
    """
    nested = config.get("text_config")
    if isinstance(nested, Mapping):
        config = {**nested, **{name: value for name, value in config.items() if name in _NAMES}}
    if config.get("use_sliding_window") is False:
        return ()
    layers = config.get("layer_types")
    if isinstance(layers, list) and layers and not any(kind in _KINDS for kind in layers):
        return ()
    return tuple(sorted({value for name in _NAMES if type(value := config.get(name)) is int and value > 0}))
