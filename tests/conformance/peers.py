"""The cases that transformers is asked about, for `conftest.peers`. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.registry import oracle_for

from .small import BLOOM, LLAMA, parameters

Peers = dict[str, dict[str, NDArray[Any]]]

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_NO_THETA = {k: v for k, v in LLAMA.items() if k != "rope_theta"}

CONFIGS: dict[str, Mapping[str, object]] = {
    "llama-gqa": LLAMA,
    "llama-theta-v4": LLAMA | {"rope_theta": 500.0},
    "llama-theta-v5": _NO_THETA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "llama-linear-v4": LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama-llama3-v4": LLAMA | {"rope_theta": 5000.0, "rope_scaling": LLAMA3},
    "llama-llama3-v5": _NO_THETA | {"rope_parameters": LLAMA3 | {"rope_theta": 5000.0}},
    "llama-biases-tied": LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama-head-dim-eps": LLAMA | {"head_dim": 24, "rms_norm_eps": 1e-2, "num_key_value_heads": 4},
    "bloom": BLOOM,
    "bloom-3-heads-tied": BLOOM | {"hidden_size": 48, "n_head": 3, "tie_word_embeddings": True},
    "bloom-14-heads": BLOOM | {"hidden_size": 112, "n_head": 14},
    "bloom-residual-after-norm": BLOOM | {"apply_residual_connection_post_layernorm": True},
}
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 256, 150)]  # more than one block of attention

PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(3, 256, n)] for n in (4, 9, 15, 6, 21, 12)]
STEPS = 24
MODELS = {"llama": LLAMA, "bloom": BLOOM}


def bf16_exact(config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """`parameters` of `config` cut to what bf16 holds, so that both dtypes run the same weights."""
    cut = {name: array.view(np.uint32) & np.uint32(0xFFFF0000) for name, array in parameters(config).items()}
    return {name: array.view(np.float32) for name, array in cut.items()}


def faulty() -> dict[str, tuple[Mapping[str, object], dict[str, NDArray[np.float32]]]]:
    """Llama with its smallest faults: rotary theta 1 % off, and the sign of one ordinary weight flipped."""
    flipped = bf16_exact(LLAMA)
    flipped["model.layers.1.mlp.up_proj.weight"][17, 5] *= -1
    return {"theta": (LLAMA | {"rope_theta": 10100.0}, bf16_exact(LLAMA)), "sign": (LLAMA, flipped)}


def forced(name: str) -> list[list[int]]:
    """The oracle's greedy tokens (rows, steps) of MODELS[name]."""
    oracle = oracle_for(MODELS[name], bf16_exact(MODELS[name]))
    return [oracle.greedy(prompt, STEPS).tolist() for prompt in PROMPTS]
