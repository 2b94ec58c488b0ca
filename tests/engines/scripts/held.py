"""Run as a process on architectures: a line of each, its name, the weights that a rank says it holds, those saved."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from genqual.engines.hf import evidence

SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8},
    **{"qk_nope_head_dim": 8, "first_k_dense_replace": 1, "n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 64},
}
for architecture in sys.argv[1:]:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZES))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "pt") as saved:
            kept = sum(saved.get_tensor(name).numel() for name in saved.keys())  # noqa: SIM118
    print(architecture, evidence.parameters(model), kept)
