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
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
            return _told(name, value, "a positive integer is wanted")
    heads, shared = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and (shared <= 0 or heads % shared):
        wanted = f"a part of its {heads} attention heads is wanted"
        return _told("num_key_value_heads", shared, wanted)
    for names, least in ((_ABOVE_ZERO, "above 0"), (_NOT_BELOW_ZERO, "of at least 0")):
        for name in names:
            value = config.get(name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not (value > 0 if least == "above 0" else value >= 0):  # type: ignore[operator]
                return _told(name, value, f"a number {least} is wanted")
    return None


def _told(name: str, value: Json, wanted: str) -> str:
    return f"config {name} = {value!r}: {wanted}; mend config.json, or download it again"
