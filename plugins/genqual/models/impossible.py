"""Values of a config.json that no model can have, whoever reads it. What is only unknown here is not judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from genqual.cases import Json

_COUNTS: Final = (
    *("num_hidden_layers", "n_layer", "n_layers", "hidden_size", "n_embd", "d_model", "vocab_size"),
    *("num_attention_heads", "n_head", "n_heads"),
)
_ABOVE_ZERO: Final = ("rope_theta", "rotary_emb_base")
_NOT_BELOW_ZERO: Final = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")


def impossible(config: Mapping[str, Json]) -> str | None:
    """The first field whose value can be no model's, with the next step; None where there is none.

    Of fields that many architectures share, where they stand at the top; an absent one, or null, says nothing.
    """
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        return _told("model_type", kind, "a name is wanted")
    for name in _COUNTS:
        value = config.get(name)
        if _single(value) and (type(value) is not int or value <= 0):
            return _told(name, value, "a positive integer is wanted")
    heads, shared = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if type(heads) is int and type(shared) is int and (shared <= 0 or heads % shared):
        return _told("num_key_value_heads", shared, f"a part of its {heads} attention heads is wanted")
    for name in (*_ABOVE_ZERO, *_NOT_BELOW_ZERO):
        value = config.get(name)
        if _single(value) and not _is_number(value, above_zero=name in _ABOVE_ZERO):
            least = "above 0" if name in _ABOVE_ZERO else "of at least 0"
            return _told(name, value, f"a number {least} is wanted")
    return None


def _single(value: Json) -> bool:
    """Whether it is one value: of a list, one for each layer, or a mapping nothing is known here."""
    return value is not None and not isinstance(value, list | dict)


def _is_number(value: Json, *, above_zero: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 if above_zero else value >= 0


def _told(name: str, value: Json, wanted: str) -> str:
    return f"config {name} = {value!r}: {wanted}; mend config.json, or download it again"
