"""Tiny random checkpoints of architectures that the oracle does not know, as transformers writes them.

Run as a process, `python tests/unlisted.py FOLDER NAME ...` writes one folder a name: the test process never imports
torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

BASE: Final[dict[str, Any]] = {
    **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_GPT: Final[dict[str, Any]] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
_SSM: Final[dict[str, Any]] = {
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_expand": 2}
}
_MANY: Final[dict[str, Any]] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATE: Final[dict[str, Any]] = {
    **{"head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_hidden_layers": 3},
}

RIGHT: Final[dict[str, dict[str, Any]]] = {
    "bamba": _SSM | {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "biogpt": {},
    "codegen": _GPT | {"rotary_dim": 8},
    "cohere": {},
    "cohere2": {"sliding_window": 32, "num_hidden_layers": 4},
    "dbrx": {
        **{"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    },
    "exaone4": {"sliding_window": 32, "sliding_window_pattern": 2},
    "glm": {"head_dim": 16},
    "glm4_moe": _LATE,
    "gpt_bigcode": _GPT | {"n_inner": 128},
    "gptj": _GPT | {"rotary_dim": 8},
    "granitemoe": _MANY,
    "minimax": _MANY | {"head_dim": 16, "block_size": 16},
    "nemotron": {"head_dim": 16},
    "olmo": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": _GPT,
    "persimmon": {},
    "phi": {},
    "smollm3": {"num_hidden_layers": 4},
    "stablelm": {},
    "xglm": {"d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4},
}
"""Those that transformers runs rightly."""

WRONG: Final[dict[str, dict[str, Any]]] = {
    "nemotron_h": {
        **{"hybrid_override_pattern": "M*-M", "num_hidden_layers": 4, "mamba_num_heads": 8, "mamba_head_dim": 16},
        **{"n_groups": 1, "ssm_state_size": 16, "head_dim": 16},
    },
    "recurrent_gemma": {
        **{"num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 32, "num_key_value_heads": 1},
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 64, "context_length": 512},
    "zamba2": {
        **{"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
        **{"n_mamba_heads": 8, "mamba_headdim": 16, "mamba_d_state": 16, "mamba_ngroups": 1, "attention_head_dim": 32},
        **{"num_key_value_heads": 4, "use_mem_rope": True},
    },
}
"""Those whose answers transformers 5.23 changes by padding or by its cache, so that a FAIL is right."""


def write(folder: Path, name: str) -> None:
    """One checkpoint in fp32."""
    checkpoint(folder / name, name, BASE | {**RIGHT, **WRONG}[name])


def checkpoint(directory: Path, architecture: str, config: dict[str, Any]) -> None:
    """Random weights in fp32, the same for a name of `directory`: no norm is one and no bias is zero."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(sum(map(ord, directory.name)))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **config)).float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(directory)


def main(write_one: Callable[[Path, str], None], arguments: list[str]) -> None:
    """A folder, then names: one that this release of transformers lacks is told, and hides none of the others."""
    for each in arguments[1:]:
        try:
            write_one(Path(arguments[0]), each)
        except Exception as error:  # noqa: BLE001
            print(json.dumps({each: f"{type(error).__name__}: {error}"[:300]}), file=sys.stderr)


if __name__ == "__main__":
    main(write, sys.argv[1:])
