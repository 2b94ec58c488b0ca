"""A model's attention by its configuration: its heads, whether ranks can share them, how far they look and count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Sharing: TypeAlias = Literal["", "evenly", "unevenly"]
"""How an engine shares heads out: not at all, the same number to each rank, or as many to one rank as are left."""

_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "n_head_kv")
POSITIONS: Final = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names of the number of positions; MPT's biases are made for `max_seq_len`, and no further one can be read."""

_WINDOWS: Final = ("sliding_window", "attention_window", "window_size", "attention_chunk_size", "local_window_size")
_WINDOWED: Final = ("sliding_attention", "chunked_attention", "local")


def heads_of(config: Mapping[str, object]) -> tuple[int, int] | None:
    """(attention heads, key-value heads) of a config.json, as a dict; None where it names no heads.

    Several key-value heads fewer than heads: grouped queries; one: multi-query, of which some architectures say only
    that it is (`multi_query`).
    """
    nested = config.get("text_config")
    if isinstance(nested, Mapping) and not any(name in config for name in _HEADS):
        config = nested
    heads = _first(config, _HEADS)
    if heads is None:
        return None
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return heads, 1
    if config.get("model_type") == "falcon" and config.get("new_decoder_architecture") is not True:
        return heads, heads
    attention = config.get("attn_config")
    inner = _first(attention, _KV_HEADS) if isinstance(attention, Mapping) else None
    return heads, inner or _first(config, _KV_HEADS) or heads


def why_not_shared(config: Mapping[str, object], ranks: int, sharing: Sharing) -> str | None:
    """Why `ranks` cannot share the heads of `config` out, with the counts; None where they can, or none are named."""
    found = heads_of(config)
    if found is None:
        return None
    heads, kv_heads = found
    if heads % kv_heads:
        return (
            f"{heads} attention heads over {kv_heads} key-value heads: each key-value head serves the same number of "
            "heads, so the first must be a multiple of the second; give the config.json of these weights"
        )
    if ranks < 2 or not sharing:
        return None
    if kv_heads < ranks:
        return (
            f"{kv_heads} key-value head(s) for {ranks} ranks ({heads} attention heads): a rank would hold none; take "
            f"at most {kv_heads} rank(s)"
        )
    counts = {"attention heads": heads, "key-value heads": kv_heads}
    uneven = [f"{count} {name}" for name, count in counts.items() if count % ranks]
    if uneven and sharing == "evenly":
        fits = [n for n in range(2, kv_heads + 1) if not heads % n and not kv_heads % n]
        take = f"take {' or '.join(map(str, fits))} ranks, or" if fits else "take"
        return (
            f"{' and '.join(uneven)} are no multiple of {ranks} ranks, and this engine shares heads out evenly; {take} "
            "deepspeed-inference, which does not"
        )
    return None


def _first(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    found = (config.get(name) for name in names)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )


def windows_said(config: Mapping[str, object]) -> tuple[int, ...]:
    """The windows that a config.json names, in tokens, ascending; those of an architecture that nobody declares.

    One that is switched off, or of which no layer is, is none.
    """
    nested = config.get("text_config")
    if isinstance(nested, Mapping):
        config = {**nested, **{name: value for name, value in config.items() if name in _WINDOWS}}
    if config.get("use_sliding_window") is False:
        return ()
    layers = config.get("layer_types")
    if isinstance(layers, list) and layers and not any(kind in _WINDOWED for kind in layers):
        return ()
    return tuple(sorted({value for name in _WINDOWS if type(value := config.get(name)) is int and value > 0}))


def positions_of(config: Mapping[str, object]) -> int | None:
    """How many positions a configuration has; None where it names no number, and of BLOOM, which reads any."""
    return None if config.get("model_type") == "bloom" else _first(config, POSITIONS)


def has_alibi(config: Mapping[str, object]) -> bool:
    """Whether positions are biases that grow with the distance (ALiBi), and their rounding with them."""
    kind, attention = config.get("model_type"), config.get("attn_config")
    if kind == "mpt":
        return attention.get("alibi", True) is True if isinstance(attention, Mapping) else True
    return kind == "bloom" or config.get("alibi") is True
