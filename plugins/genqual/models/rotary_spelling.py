"""Rotary angles in the spelling of transformers 5, which a release of 4 does not see. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

BASES: Final = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}
"""Of an architecture with a base for each kind of layer, as Gemma 3 has: what transformers 4 calls them."""


def unseen(config: Mapping[str, Any]) -> list[str]:
    """Fields that transformers 4 reads and `config` lacks or contradicts, by what its `rope_parameters` say.

    transformers 5 writes `rope_parameters` only; 4 does not know it, and takes its defaults without a word.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return []
    each = {base: rope[kind] for kind, base in BASES.items() if isinstance(rope.get(kind), Mapping)}
    main = each.get("rope_theta", {}) if each else rope
    found = [
        base for base, said in (each or {"rope_theta": rope}).items() if said.get("rope_theta") != config.get(base)
    ]
    if main.get("rope_type", "default") != "default" and not config.get("rope_scaling"):
        found.append("rope_scaling")
    share = config.get("partial_rotary_factor", config.get("rotary_pct"))
    if main.get("partial_rotary_factor") not in (None, share):
        found.append("partial_rotary_factor")
    return found
