"""Small models and the scores of a pretended engine, for the tests of this room. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
BLOOM: dict[str, object] = {
    "model_type": "bloom",
    "vocab_size": 256,
    "hidden_size": 64,
    "n_layer": 3,
    "n_head": 4,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}


def parameters(config: Mapping[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights that fit `config`: no bias is zero and no norm is one, so that leaving one out is seen."""
    random = np.random.default_rng(seed)
    shapes = _llama_shapes(config) if config["model_type"] == "llama" else _bloom_shapes(config)
    std = 0.1 if config["model_type"] == "llama" else 0.15
    std *= np.sqrt(128 / config["hidden_size"])
    out: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        noise = random.standard_normal(shape) * (std if len(shape) == 2 else 0.1)
        out[name] = (noise + (1.0 if "norm" in name or "ln_f" in name else 0.0) * name.endswith("weight")).astype("f4")
    return out


def _llama_shapes(c: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    width = c.get("head_dim") or hidden // c["num_attention_heads"]
    queries, keys = width * c["num_attention_heads"], width * c["num_key_value_heads"]
    linears = {"q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden)}
    linears["o_proj"] = (hidden, queries)
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    for layer in (f"model.layers.{i}" for i in range(c["num_hidden_layers"])):
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for part, group, bias in (("self_attn", linears, "attention_bias"), ("mlp", mlp, "mlp_bias")):
            for name, shape in group.items():
                shapes[f"{layer}.{part}.{name}.weight"] = shape
                if c.get(bias):
                    shapes[f"{layer}.{part}.{name}.bias"] = shape[:1]
    return shapes


def _bloom_shapes(c: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = c["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (c["vocab_size"], hidden)}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (c["vocab_size"], hidden)
    vectors = {"transformer.word_embeddings_layernorm": hidden, "transformer.ln_f": hidden}
    for layer in (f"transformer.h.{i}" for i in range(c["n_layer"])):
        matrices = {
            "self_attention.query_key_value": (3 * hidden, hidden),
            "self_attention.dense": (hidden, hidden),
            "mlp.dense_h_to_4h": (4 * hidden, hidden),
            "mlp.dense_4h_to_h": (hidden, 4 * hidden),
        }
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in matrices.items()}
        vectors |= {f"{layer}.input_layernorm": hidden, f"{layer}.post_attention_layernorm": hidden}
    for name, size in vectors.items():
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)
    return shapes
