"""What a transformers model keeps between its passes: keys and values, or the state of a recurrent layer. In ranks."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping
from typing import Any, Final

import torch

KINDS: Final = ("conv", "recurrent")
NAMES: Final = ("past_key_values", "cache_params")  # attention and hybrids; models of recurrent layers alone


def argument(parameters: Mapping[str, Any]) -> str:
    """The name by which a model's forward, with these `parameters`, takes its cache."""
    return next((name for name in NAMES if name in parameters), NAMES[0])


def of_output(out: Any) -> Any:
    """The cache that a forward pass gave back; None when it kept nothing."""
    return next((cache for name in NAMES if (cache := getattr(out, name, None)) is not None), None)


def cache_bytes(cache: Any) -> int:
    """Bytes of keys and values on this rank: what grows with each token, up to a layer's window."""
    pairs = ((layer.keys, layer.values) for layer in _layers(cache) if has_keys(layer))
    return sum(_bytes(part) for pair in pairs for part in pair)


def state_bytes(cache: Any) -> int:
    """Bytes of what does not grow on this rank: convolution windows and recurrent states."""
    known = [part for layer in _layers(cache) for kind in KINDS for part in states(layer, kind).values()]
    return sum(map(_bytes, [*known, *_own_states(cache)]))


def states(layer: Any, kind: str) -> dict[int, torch.Tensor]:
    """The states of one of `KINDS` (rows, ...) that a layer of a cache holds, by their number. Empty for attention."""
    numbered = getattr(layer, f"{kind}_states", None) or {}
    return {number: part for number, part in numbered.items() if part is not None}


def uncroppable(model_type: str, cache: Any) -> str | None:
    """Why tokens cannot be taken out of `cache` again; None where they can."""
    if any(states(layer, "recurrent") for layer in _layers(cache)):
        return f"{model_type} keeps a recurrent state, which sums up all tokens read: none can be taken out of it again"
    if not _layers(cache):
        return _foreign(model_type, cache)
    if _own(cache):
        try:
            copy.deepcopy(cache).crop(-1)
        except (RuntimeError, NotImplementedError) as refusal:
            return f"{model_type} keeps a cache of its own kind, out of which no token can be taken ({refusal})"
    return None


def uncontinuable(model: Any, model_type: str, cache: Any) -> str | None:
    """Why a text cannot be read in several passes of more than one token; None where it can.

    By how transformers is written, not by trying: a model that goes on wrongly where it could go on has a fault.
    """
    scan = getattr(sys.modules.get(type(model).__module__), "mamba_selective_scan", None)
    if scan is not None and not any("initial" in name for name in inspect.signature(scan).parameters):
        return (
            f"{model_type}: transformers' scan of Mamba's first version begins without a state in each pass of several "
            f"tokens, so it goes on from a cache by single tokens only"
        )
    return None if _layers(cache) else _foreign(model_type, cache)


def prepare_crop(cache: Any) -> None:
    """From now on keep what `crop` needs: windows and convolution states otherwise forget what falls out of them."""
    if hasattr(cache, "activate_past_recording"):  # transformers 5; before, no layer forgot
        cache.activate_past_recording()


def _foreign(model_type: str, cache: Any) -> str:
    kind = "no cache" if cache is None else f"a {type(cache).__name__}"
    return f"{model_type} gives back {kind} in this transformers, which goes on by single tokens only"


def _layers(cache: Any) -> list[Any]:
    return list(getattr(cache, "layers", None) or [])


def _own(cache: Any) -> bool:
    """Whether a cache is of a class that its architecture's module defines, beside those of transformers' caches."""
    return type(cache).__module__ != "transformers.cache_utils"


def _own_states(cache: Any) -> list[torch.Tensor]:
    """Tensors that such a cache holds in lists of its own, as MiniMax does with the states of its linear attention."""
    held = vars(cache).values() if _own(cache) and hasattr(cache, "__dict__") else ()
    return [part for value in held if isinstance(value, list) for part in value if isinstance(part, torch.Tensor)]


def has_keys(layer: Any) -> bool:
    """Whether this layer of a cache holds keys and values."""
    return isinstance(getattr(layer, "keys", None), torch.Tensor)


def _bytes(part: torch.Tensor) -> int:
    return part.numel() * part.element_size()
