"""The embedded models: their configurations, and their parameters' names and shapes. Pure: the standard library only.

Four are here; those of `architectures` are configured unlike what is common, or of other architectures.

Small enough to build in a moment, and awkward on purpose: `bloom-tiny` has 24 heads, no power of two, so ALiBi takes
its second branch; the Llamas have half as many key-value heads as query heads. Heads, key-value heads, hidden and
intermediate sizes and the vocabulary divide by 1, 2, 4 and 8 ranks. The `30m` pair is for timing: the step of a tiny
model is mostly Python. None of these is tied; no embedded model has an end-of-text token, so every run makes the tokens
asked for.
"""

from __future__ import annotations

import copy
from typing import Final

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models import architectures

POSITIONS: Final = 4096  # Llama's table and BLOOM's `seq_length`; ALiBi itself has no limit

BYTE_OFFSET: Final = 3
"""Byte b of a UTF-8 prompt is token b + 3; 0 pads, 1 and 2 are never written by a prompt."""


_COMMON: Final[dict[str, Json]] = {
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def _bloom(hidden: int, layers: int, heads: int, vocabulary: int) -> dict[str, Json]:
    return {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "hidden_size": hidden,
        "n_layer": layers,
        "n_head": heads,
        "vocab_size": vocabulary,
        "seq_length": POSITIONS,
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **_COMMON,
    }


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Json]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        # transformers 4 reads the first of these, 5 the second; each ignores or folds in the other.
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **_COMMON,
    }


_CONFIGS: Final[dict[str, dict[str, Json]]] = {
    "bloom-tiny": _bloom(hidden=192, layers=3, heads=24, vocabulary=1024),
    "llama-tiny": _llama(hidden=128, intermediate=384, layers=3, heads=16, kv_heads=8, vocabulary=1024),
    "bloom-30m": _bloom(hidden=512, layers=8, heads=16, vocabulary=4096),
    "llama-30m": _llama(hidden=512, intermediate=1408, layers=9, heads=16, kv_heads=8, vocabulary=4096),
    **architectures.CONFIGS,
}

NAMES: Final[tuple[str, ...]] = tuple(_CONFIGS)

SUMMARIES: Final[dict[str, str]] = {
    "bloom-tiny": "BLOOM, 3 layers, hidden 192, 24 heads (ALiBi's second branch), built from integers",
    "llama-tiny": "Llama, 3 layers, hidden 128, 16 heads on 8 key-value heads, built from integers",
    "bloom-30m": "BLOOM, 8 layers, hidden 512, 29 million weights, built from integers, for timing",
    "llama-30m": "Llama, 9 layers, hidden 512, 31 million weights, built from integers, for timing",
    **architectures.SUMMARIES,
}


def config(name: str) -> dict[str, Json]:
    """The Hugging Face config dict of an embedded model, a fresh copy. Raises BadInput on another name."""
    if name not in _CONFIGS:
        raise BadInput(f"embedded model {name!r}: genqual builds {', '.join(NAMES)}")
    return copy.deepcopy(_CONFIGS[name])


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Parameter name -> shape of an embedded model, as transformers names them, in the order of the forward pass."""
    model = config(name)
    if name in architectures.CONFIGS:
        return architectures.shapes(name)
    return _bloom_shapes(model) if model["model_type"] == "bloom" else _llama_shapes(model)


def in_memory(name: str) -> bool:
    """Whether transformers' modules have the parameters of `shapes`: where they stack experts, files are loaded."""
    return not any("experts" in parameter for parameter in shapes(name))


def size(model: dict[str, Json], key: str) -> int:
    """An integer of a config. Raises TypeError when it is something else."""
    value = model[key]
    if not isinstance(value, int):
        raise TypeError(f"{key} must be an integer, not {value!r}")
    return value


def _bloom_shapes(model: dict[str, Json]) -> dict[str, tuple[int, ...]]:
    hidden, vocabulary = size(model, "hidden_size"), size(model, "vocab_size")
    found: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (vocabulary, hidden)}

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = (rows, columns)
        found[f"{name}.bias"] = (rows,)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (hidden,)

    norm("transformer.word_embeddings_layernorm")
    for layer in range(size(model, "n_layer")):
        block = f"transformer.h.{layer}"
        norm(f"{block}.input_layernorm")
        linear(f"{block}.self_attention.query_key_value", 3 * hidden, hidden)
        linear(f"{block}.self_attention.dense", hidden, hidden)
        norm(f"{block}.post_attention_layernorm")
        linear(f"{block}.mlp.dense_h_to_4h", 4 * hidden, hidden)
        linear(f"{block}.mlp.dense_4h_to_h", hidden, 4 * hidden)
    norm("transformer.ln_f")
    found["lm_head.weight"] = (vocabulary, hidden)
    return found


def _llama_shapes(model: dict[str, Json]) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocabulary = (size(model, key) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    head = size(model, "head_dim")
    queries, keys = size(model, "num_attention_heads") * head, size(model, "num_key_value_heads") * head
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(size(model, "num_hidden_layers")):
        block = f"model.layers.{layer}"
        found |= {
            f"{block}.input_layernorm.weight": (hidden,),
            f"{block}.self_attn.q_proj.weight": (queries, hidden),
            f"{block}.self_attn.k_proj.weight": (keys, hidden),
            f"{block}.self_attn.v_proj.weight": (keys, hidden),
            f"{block}.self_attn.o_proj.weight": (hidden, queries),
            f"{block}.post_attention_layernorm.weight": (hidden,),
            f"{block}.mlp.gate_proj.weight": (inner, hidden),
            f"{block}.mlp.up_proj.weight": (inner, hidden),
            f"{block}.mlp.down_proj.weight": (hidden, inner),
        }
    found["model.norm.weight"] = (hidden,)
    found["lm_head.weight"] = (vocabulary, hidden)
    return found
