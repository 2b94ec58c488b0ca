"""Tiny random checkpoints of the architectures that the oracle knows, as transformers writes them; no common value.

Run as a process, `python -m tests.listed FOLDER NAME ...` writes one folder a name: the test process never imports
torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from tests.unlisted import checkpoint, main

BASE: Final[dict[str, Any]] = {
    **{"vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048, "initializer_range": 0.1},
    **{"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_ODD: Final[dict[str, Any]] = {"head_dim": 24, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
_GPT: Final[dict[str, Any]] = {"n_embd": 128, "n_layer": 4, "n_head": 8}
_LATENT: Final[dict[str, Any]] = {
    **{"num_key_value_heads": 8, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    **{"moe_intermediate_size": 64, "first_k_dense_replace": 1, "q_lora_rank": 48, "kv_lora_rank": 32},
    **{"qk_rope_head_dim": 16, "qk_nope_head_dim": 24, "v_head_dim": 20},
}


def _rope(kind: str, base: float = 1e4, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": base, **more}}


_TWO: Final[dict[str, Any]] = {"num_hidden_layers": 2}
_DEPTHS: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys(("bloom", "gpt2"), _TWO | {"n_layer": 2}),
    "gemma3_text": _TWO | {"layer_types": ["sliding_attention", "full_attention"]},
    "lfm2": _TWO | {"layer_types": ["conv", "full_attention"]},
    "mpt": _TWO | {"n_layers": 2},
    "qwen2": _TWO | {"max_window_layers": 1},
    "qwen3_next": _TWO | {"layer_types": ["linear_attention", "full_attention"]},
}
"""What makes two layers of an architecture, one of each kind, where that is not `num_hidden_layers` alone."""

LISTED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bloom": ("bloom", {"hidden_size": 128, "n_layer": 4, "n_head": 8}),
    "deepseek_v2": ("deepseek_v2", _LATENT | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}),
    "deepseek_v3": ("deepseek_v3", _LATENT | {"n_group": 4, "topk_group": 2}),
    "falcon": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 4}),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": True, "new_decoder_architecture": False}),
    "gemma": ("gemma", {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"head_dim": 24, "sliding_window": 24, "tie_word_embeddings": True}),
    "gemma3_text": ("gemma3_text", {"head_dim": 24, "sliding_window": 24, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", _GPT | {"n_positions": 1024}),
    "gpt_neox": ("gpt_neox", {"rotary_pct": 0.25}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt_oss": ("gpt_oss", {"head_dim": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24}),
    "granite": ("granite", {"embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.5}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    "llama": ("llama", {}),
    "llama-dynamic": ("llama", _rope("dynamic", factor=2.0)),
    "llama-linear": ("llama", _rope("linear", factor=4.0)),
    "llama-mqa": ("llama", {"num_key_value_heads": 1}),
    "llama-odd": (
        "llama",
        _ODD
        | {"attention_bias": True, "mlp_bias": True}
        | _rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=256),
    ),
    "llama-yarn": ("llama", _rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 32, "state_size": 16, "n_groups": 2, "expand": 2}),
    "mistral": ("mistral", {"sliding_window": 24}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mpt": ("mpt", {"d_model": 128, "n_layers": 4, "n_heads": 8, "max_seq_len": 1024}),
    "olmo2": ("olmo2", {}),
    "opt": ("opt", {"ffn_dim": 192, "word_embed_proj_dim": 128}),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2}),
    "qwen2_moe": (
        "qwen2_moe",
        {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
        | {"shared_expert_intermediate_size": 96},
    ),
    "qwen3": ("qwen3", _ODD),
    "qwen3_moe": (
        "qwen3_moe", {"head_dim": 24, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    ),
    "qwen3_next": (
        "qwen3_next",
        {"head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16}
        | {"linear_value_head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
        | {"shared_expert_intermediate_size": 64},
    ),
    "starcoder2": ("starcoder2", {"sliding_window": 24}),
}  # fmt: skip
"""Name -> the architecture, and what its configuration changes."""

SHALLOW: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    f"{name}-2-layers": (name, LISTED[name][1] | _DEPTHS.get(name, _TWO))
    for name in sorted({architecture for architecture, _ in LISTED.values()})
}
"""One of each architecture for engines that compile every layer anew for each shape."""


def write(folder: Path, name: str) -> None:
    """One checkpoint; of BASE what its architecture has: oracles refuse a field that nobody reads."""
    from transformers import AutoConfig

    architecture, changes = (LISTED | SHALLOW)[name]
    has = AutoConfig.for_model(architecture)
    base = {field: value for field, value in BASE.items() if hasattr(has, field)}
    checkpoint(folder / name, architecture, base | changes)


if __name__ == "__main__":
    main(write, sys.argv[1:])
