"""Small configurations of the architectures that keep a state, and others of their shapes. Plain data."""

from __future__ import annotations

from typing import Any, Final

_BASE: Final[dict[str, Any]] = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_MAMBA2: Final[dict[str, Any]] = _BASE | {
    **{"model_type": "mamba2", "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 8, "head_dim": 8},
    **{"state_size": 12, "n_groups": 2, "conv_kernel": 3, "time_step_limit": [0.4, 0.9]},
}
_LFM2: Final[dict[str, Any]] = _BASE | {
    **{"model_type": "lfm2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 50, "block_multiple_of": 1, "conv_L_cache": 4},
    **{"full_attn_idxs": [1, 2], "rope_theta": 500.0, "conv_bias": True, "tie_word_embeddings": False},
}
_QWEN3_NEXT: Final[dict[str, Any]] = _BASE | {
    **{"model_type": "qwen3_next", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"num_key_value_heads": 1, "head_dim": 16, "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 6, "linear_value_head_dim": 5},
    **{"linear_conv_kernel_dim": 3, "full_attention_interval": 2, "num_experts": 6, "num_experts_per_tok": 2},
    **{
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 20,
        "intermediate_size": 48,
        "mlp_only_layers": [1],
    },
}

RECURRENT: Final[dict[str, dict[str, Any]]] = {"mamba2": _MAMBA2, "lfm2": _LFM2, "qwen3_next": _QWEN3_NEXT}

_LAYERS: Final = ["full_attention", "linear_attention", "linear_attention", "linear_attention"]
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "mamba2: biases": _MAMBA2 | {"use_bias": True, "use_conv_bias": False, "tie_word_embeddings": True},
    "mamba2: one group": _MAMBA2 | {"n_groups": 1, "conv_kernel": 4},
    "mamba2: as wide": _MAMBA2 | {"expand": 1, "num_heads": 4, "time_step_limit": [0.0, float("inf")]},
    "lfm2: rounded up": _LFM2 | {"block_multiple_of": 16, "block_ffn_dim_multiplier": 1.3, "conv_bias": False},
    "lfm2: as it is": _LFM2 | {"block_auto_adjust_ff_dim": False, "tie_word_embeddings": True},
    "lfm2: all attention": {k: v for k, v in _LFM2.items() if k != "full_attn_idxs"},
    "qwen3_next: layers": {k: v for k, v in _QWEN3_NEXT.items() if k != "full_attention_interval"}
    | {"layer_types": _LAYERS, "attention_bias": True, "tie_word_embeddings": True},
    "qwen3_next: sparse": _QWEN3_NEXT | {"decoder_sparse_step": 2, "linear_num_key_heads": 4},
    "qwen3_next: mixtures": _QWEN3_NEXT | {"mlp_only_layers": [], "num_key_value_heads": 2},
}
