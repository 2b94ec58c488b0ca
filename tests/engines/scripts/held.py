"""Run as a process on architectures: a line of each, and after its name

the weights that a rank says it holds, those saved; whether a hash of them is the same once they lie on disk; and how
many of the tensors that were fetched for that hash lived at once, of how many.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import accelerate
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from genqual.engines.hf import evidence

SIZES = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 8},
    **{"qk_nope_head_dim": 8, "first_k_dense_replace": 1, "n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 64},
}


class Watched(Mapping[str, torch.Tensor]):
    """Weights that are fetched, and how many of those of all such maps live at once."""

    now = most = fetched = 0

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getitem__(self, name: str) -> torch.Tensor:
        array = self.real[name].numpy().copy()
        Watched.fetched += 1
        Watched.now += 1
        Watched.most = max(Watched.most, Watched.now)
        weakref.finalize(array, Watched.gone)  # any view of the tensor keeps the array
        return torch.from_numpy(array)

    @staticmethod
    def gone() -> None:
        Watched.now -= 1

    def __iter__(self) -> Iterator[str]:
        return iter(self.real)

    def __len__(self) -> int:
        return len(self.real)


def on_disk(model: Any, folder: Path) -> str:
    """The hash of `model` after its weights were put into `folder`."""
    accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    for module in model.modules():
        if evidence.offloaded(module) is not None:
            module._hf_hook.weights_map = Watched(module._hf_hook.weights_map)
    return evidence.weight_hash(model)


for architecture in sys.argv[1:]:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZES))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "pt") as saved:
            kept = sum(saved.get_tensor(name).numel() for name in saved.keys())  # noqa: SIM118
        counts = evidence.parameters(model), kept
        Watched.now = Watched.most = Watched.fetched = 0
        before = evidence.weight_hash(model)
        same = before == on_disk(model, Path(folder) / "offloaded")
    print(architecture, *counts, same, Watched.most, Watched.fetched)
