"""Tiny models of several architectures as llama.cpp's converter would write them. NumPy and the package gguf."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.registry import architecture_of

_SHARED: Final[dict[str, Any]] = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 50000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_GEMMA: Final = {
    **{"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 32, "tie_word_embeddings": True},
    "hidden_activation": "gelu_pytorch_tanh",
}
CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "llama": _SHARED | {"model_type": "llama", "attention_bias": False, "mlp_bias": False},
    "qwen2": {key: value for key, value in _SHARED.items() if key != "head_dim"} | {"model_type": "qwen2"},
    # transformers takes 128 for the width of a head of every Qwen3 that it reads from GGUF
    "qwen3": _SHARED | {"model_type": "qwen3", "head_dim": 128, "tie_word_embeddings": True},
    "gemma2": _SHARED
    | _GEMMA
    | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    | {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3": _SHARED
    | _GEMMA
    | {"model_type": "gemma3_text", "num_hidden_layers": 6, "rope_local_base_freq": 10000.0}
    | {"layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
}
"""By `general.architecture`: what config.json of such a model says."""


def weights_of(config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Random weights by transformers' names; norms near one, or near zero where one is added to them."""
    model, _ = architecture_of(config).declared(config)
    draw = np.random.default_rng(11)
    made = {}
    for name, shape in model.shapes().items():
        values = draw.normal(0, 0.1, shape)
        if name.endswith("norm.weight") and not str(config["model_type"]).startswith("gemma"):
            values = values + 1.0
        made[name] = values.astype(np.float32)
    return made


def written(path: Path, architecture: str, kind: str = "F32", **header: Any) -> Path:
    """`CONFIGS[architecture]` as a file of matrices of the ggml type `kind`; `header` adds to the metadata."""
    config = CONFIGS[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config["vocab_size"])
    if "sliding_window" in config:
        writer.add_sliding_window(config["sliding_window"])
    if "attn_logit_softcapping" in config:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_tokenizer_model("none")
    for key, value in header.items():
        writer.add_float32(f"{architecture}.{key.replace('__', '.')}", value)
    arch = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    wanted = gguf.GGMLQuantizationType[kind]
    for name, values in weights_of(config).items():
        stem, _, last = name.rpartition(".")
        placed = np.ascontiguousarray(_placed(name, values, config))
        target = f"{names.get_name(stem)}.{last}"
        if placed.ndim == 2:
            writer.add_tensor(target, gguf.quants.quantize(placed, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(target, placed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _placed(name: str, values: NDArray[np.float32], config: dict[str, Any]) -> NDArray[np.float32]:
    """As llama.cpp's converter has it: pairs of Llama side by side, one added to the norms of Gemma."""
    if config["model_type"] == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
    if str(config["model_type"]).startswith("gemma") and name.endswith("norm.weight"):
        return values + np.float32(1)
    return values
