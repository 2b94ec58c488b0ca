"""Small configurations of each architecture, and random weights that fit one. NumPy only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.registry import architecture_of

from .recurrent import RECURRENT

Config = Mapping[str, Any]
Weights = dict[str, NDArray[np.float32]]

_BASE: dict[str, Any] = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA: dict[str, Any] = _BASE | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_NARROW = _LLAMA | {"head_dim": 12}  # a width that is not hidden over heads

_MIXTURE = _LLAMA | {"num_hidden_layers": 4, "num_experts_per_tok": 3, "num_experts": 6, "moe_intermediate_size": 20}
_LATENT = (
    _LLAMA
    | {
        "num_key_value_heads": 4,
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 20,
        "n_shared_experts": 3,
    }
    | {"n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7}
    | {"q_lora_rank": 24, "kv_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10}
)

SMALL: dict[str, dict[str, Any]] = {
    "llama": _NARROW | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0},
    "mistral": _NARROW | {"model_type": "mistral", "sliding_window": 16},
    "qwen2": _LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3": _NARROW
    | {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "gemma": _NARROW | {"model_type": "gemma", "num_key_value_heads": 1},
    "gemma2": _NARROW
    | {"model_type": "gemma2", "sliding_window": 16, "query_pre_attn_scalar": 9, "final_logit_softcapping": 2.0}
    | {"attn_logit_softcapping": 1.5},
    "gemma3_text": _NARROW
    | {"model_type": "gemma3_text", "sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 9}
    | {"rope_theta": 5000.0, "rope_local_base_freq": 100.0, "final_logit_softcapping": 3.0},
    "phi3": _LLAMA | {"model_type": "phi3", "sliding_window": 32, "partial_rotary_factor": 0.5},
    "olmo2": _LLAMA | {"model_type": "olmo2", "rope_theta": 300.0},
    "granite": _LLAMA
    | {"model_type": "granite", "embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.5}
    | {"attention_multiplier": 0.2},
    "gpt2": _BASE | {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 192},
    "gpt_neox": {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}
    | {"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 700},
    "opt": _BASE
    | {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"max_position_embeddings": 192, "word_embed_proj_dim": 24},
    "falcon": _BASE
    | {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"new_decoder_architecture": True, "num_kv_heads": 2, "max_position_embeddings": 256},
    "mpt": _BASE
    | {"model_type": "mpt", "d_model": 24, "n_layers": 3, "n_heads": 3, "max_seq_len": 192}
    | {"attn_config": {"clip_qkv": 1.0, "softmax_scale": 0.3}},
    "bloom": _BASE | {"model_type": "bloom", "hidden_size": 24, "n_layer": 3, "n_head": 3},
    **RECURRENT,
    "starcoder2": _LLAMA | {"model_type": "starcoder2", "sliding_window": 16, "num_key_value_heads": 1},
    "mixtral": _NARROW
    | {"model_type": "mixtral", "sliding_window": 16, "num_local_experts": 5, "num_experts_per_tok": 3},
    "qwen2_moe": _MIXTURE
    | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 28, "mlp_only_layers": [2], "sliding_window": 16}
    | {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "qwen3_moe": _MIXTURE
    | {"model_type": "qwen3_moe", "head_dim": 12, "decoder_sparse_step": 2, "norm_topk_prob": True}
    | {"use_sliding_window": True, "sliding_window": 16},
    "gpt_oss": _NARROW
    | {"model_type": "gpt_oss", "num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": 16}
    | {"swiglu_limit": 0.6, "swiglu_alpha": 1.3},
    "deepseek_v2": _LATENT | {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy"},
    "deepseek_v3": _LATENT | {"model_type": "deepseek_v3"},
}
"""One configuration an architecture, odd where it can be, its windows far shorter than IDS."""

IDS = [int(i) for i in np.random.default_rng(3).integers(0, 64, 150)]  # more than one block of attention


def parameters(config: Config, seed: int = 0) -> Weights:
    """Random weights by the declaration: no bias is zero and no norm is one, so that leaving one out is seen."""
    random = np.random.default_rng(seed)
    model, _ = architecture_of(config).declared(config)
    made: Weights = {}
    for name, shape in sorted(model.shapes().items()):
        if len(shape) > 1:
            values = random.standard_normal(shape) * 0.9 / np.sqrt(shape[-1])
        else:
            values = 0.1 * random.standard_normal(shape) + (1.0 if name.endswith("weight") else 0.0)
        made[name] = values.astype(np.float32)
    return made


def stacked(weights: Weights) -> Weights:
    """`weights` with the experts of a layer in one tensor, as transformers computes with them."""
    out: Weights = {}
    experts: dict[str, dict[str, dict[int, NDArray[np.float32]]]] = {}
    for name, array in weights.items():
        found = re.fullmatch(r"(.*\.experts)\.(\d+)\.(\w+)\.weight", name.replace("block_sparse_moe", "mlp"))
        if found is None:
            out[name.replace("block_sparse_moe", "mlp")] = array
            continue
        part = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}.get(found[3], found[3])
        experts.setdefault(found[1], {}).setdefault(part, {})[int(found[2])] = array
    for layer, of in experts.items():
        gate, up, down = (
            np.stack([of[p][i] for i in range(len(of[p]))]) for p in ("gate_proj", "up_proj", "down_proj")
        )
        out[f"{layer}.gate_up_proj"], out[f"{layer}.down_proj"] = np.concatenate([gate, up], axis=1), down
    return out
