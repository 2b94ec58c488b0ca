"""Embedded models whose configuration is nowhere the default, and models of other architectures. Standard library only.

An engine that ignores its configuration and computes with what is common (rotary base 10000, heads of hidden size over
heads, epsilon 1e-5, no biases, a head of its own) is right about `llama-tiny`, and wrong about every model here.
Windows are of 16 tokens, so that a prompt of an ordinary length crosses them. Heads, key-value heads, experts and all
sizes divide by 1, 2, 4 and 8 ranks. None has an end-of-text token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

Config: TypeAlias = dict[str, Any]
Shapes: TypeAlias = dict[str, tuple[int, ...]]

LONGEST: Final = 4096  # positions of llama-odd, as of the other Llamas
WINDOW: Final = 16
SHORT: Final = 128
"""Positions of two mixtures: in a long text a bf16 token takes another expert at a near tie, and later ones read it."""

_COMMON: Final[Config] = {
    "use_cache": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
    "vocab_size": 1024,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 12,
    "hidden_act": "silu",
}

_STRETCHED: Final[Config] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
_EXPERTS: Final[Config] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def _rotary(base: float, scaling: Config | None = None) -> Config:
    """Both spellings: transformers 4 reads `rope_theta` and `rope_scaling`, 5 reads `rope_parameters`."""
    scaling = scaling or {"rope_type": "default"}
    return {
        "rope_theta": base,
        "rope_scaling": dict(scaling) if scaling["rope_type"] != "default" else None,
        "rope_parameters": {**scaling, "rope_theta": base},
    }


CONFIGS: Final[dict[str, Config]] = {
    "llama-odd": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **_COMMON,
        "head_dim": 24,
        "intermediate_size": 384,
        "max_position_embeddings": LONGEST,
        "rms_norm_eps": 1e-6,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        **_rotary(5e5, _STRETCHED),
    },
    "qwen3-tiny": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        **_COMMON,
        "intermediate_size": 384,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
        **_rotary(1e6),
    },
    "gemma2-tiny": {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        **_COMMON,
        "num_hidden_layers": 4,
        "intermediate_size": 384,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-4,
        "attention_bias": True,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 4.0,
        "final_logit_softcapping": 8.0,
        "sliding_window": WINDOW,
        "tie_word_embeddings": True,
        **_rotary(2e4),
    },
    "qwen3_moe-tiny": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        **_COMMON,
        **_EXPERTS,
        "num_hidden_layers": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
        "tie_word_embeddings": False,
        **_rotary(1e6),
    },
    "gpt_oss-tiny": {
        "model_type": "gpt_oss",
        "architectures": ["GptOssForCausalLM"],
        **_COMMON,
        "intermediate_size": 64,
        "max_position_embeddings": SHORT,
        "rms_norm_eps": 1e-6,
        "attention_bias": True,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": WINDOW,
        "swiglu_limit": 2.0,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "tie_word_embeddings": False,
        **_rotary(
            5e4,
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
            | {"beta_fast": 1.5, "beta_slow": 0.25, "truncate": False},
        ),
    },
    "deepseek_v3-tiny": {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        **{key: value for key, value in _COMMON.items() if key != "head_dim"},
        "num_attention_heads": 8,
        "intermediate_size": 256,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "q_lora_rank": 48,
        "kv_lora_rank": 40,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 12,
        "v_head_dim": 16,
        "n_routed_experts": 16,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 64,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "rope_interleave": True,
        "tie_word_embeddings": False,
        **_rotary(
            5e4,
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}
            | {"beta_fast": 8.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False},
        ),
    },
    "qwen3_next-tiny": {
        "model_type": "qwen3_next",
        "architectures": ["Qwen3NextForCausalLM"],
        **_COMMON,
        **_EXPERTS,
        "head_dim": 16,
        "num_hidden_layers": 4,
        "intermediate_size": 256,
        "max_position_embeddings": SHORT,
        "rms_norm_eps": 1e-5,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
        "partial_rotary_factor": 0.5,
        "linear_num_key_heads": 8,
        "linear_num_value_heads": 16,
        "linear_key_head_dim": 12,
        "linear_value_head_dim": 10,
        "linear_conv_kernel_dim": 3,
        "shared_expert_intermediate_size": 96,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [2],
        "tie_word_embeddings": False,
        **_rotary(1e6),
    },
}
# transformers 5 reads the share of a head that is rotated in the rotary dictionary.
CONFIGS["qwen3_next-tiny"]["rope_parameters"]["partial_rotary_factor"] = 0.5

SUMMARIES: Final[dict[str, str]] = {
    "llama-odd": "Llama, 3 layers, no value the common one: llama3 rotary, heads of 24, biases, tied; from integers",
    "qwen3-tiny": "Qwen3, 3 layers, query-key norms, windows of 16 in two, built from integers",
    "gemma2-tiny": "Gemma 2, 4 layers, windows of 16 in two, soft caps, built from integers",
    "qwen3_moe-tiny": "Qwen3 mixture, 4 layers, 2 of 8 experts in three, built from integers",
    "gpt_oss-tiny": "gpt-oss, 3 layers, sinks, windows of 16, 2 of 8 clamped experts, built from integers",
    "deepseek_v3-tiny": "DeepSeek-V3, 3 layers, latent attention, 3 of 16 experts, built from integers",
    "qwen3_next-tiny": "Qwen3-Next, 4 layers, gated delta rules and one attention, experts, built from integers",
}


def shapes(name: str) -> Shapes:
    """Parameter name -> shape of one of `CONFIGS`, as its checkpoint names them, in the order of the forward pass."""
    config = CONFIGS[name]
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    found: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    layer = _LAYERS[config["model_type"]]
    for index in range(config["num_hidden_layers"]):
        block = f"model.layers.{index}"
        found[f"{block}.input_layernorm.weight"] = (hidden,)
        found[f"{block}.post_attention_layernorm.weight"] = (hidden,)
        layer(config, index, block, found)
    found["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocabulary, hidden)
    return found


def _linear(found: Shapes, name: str, rows: int, columns: int, *, bias: bool = False) -> None:
    found[f"{name}.weight"] = (rows, columns)
    if bias:
        found[f"{name}.bias"] = (rows,)


def _gated(found: Shapes, name: str, hidden: int, inner: int, *, bias: bool = False) -> None:
    _linear(found, f"{name}.gate_proj", inner, hidden, bias=bias)
    _linear(found, f"{name}.up_proj", inner, hidden, bias=bias)
    _linear(found, f"{name}.down_proj", hidden, inner, bias=bias)


def _attention(config: Config, block: str, found: Shapes, *, gated: int = 1, norms: bool = False) -> None:
    """Grouped queries; `gated` is 2 where the query's projection makes a gate as well."""
    name, hidden, width = f"{block}.self_attn", config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    bias = bool(config.get("attention_bias"))
    _linear(found, f"{name}.q_proj", gated * queries, hidden, bias=bias)
    _linear(found, f"{name}.k_proj", keys, hidden, bias=bias)
    _linear(found, f"{name}.v_proj", keys, hidden, bias=bias)
    _linear(found, f"{name}.o_proj", hidden, queries, bias=bias)
    if norms:
        found[f"{name}.q_norm.weight"] = found[f"{name}.k_norm.weight"] = (width,)


def _experts(config: Config, block: str, found: Shapes, count: int) -> None:
    hidden = config["hidden_size"]
    _linear(found, f"{block}.mlp.gate", count, hidden)
    for index in range(count):
        _gated(found, f"{block}.mlp.experts.{index}", hidden, config["moe_intermediate_size"])


def _llama(config: Config, index: int, block: str, found: Shapes) -> None:
    _attention(config, block, found)
    _gated(found, f"{block}.mlp", config["hidden_size"], config["intermediate_size"], bias=config["mlp_bias"])


def _qwen3(config: Config, index: int, block: str, found: Shapes) -> None:
    _attention(config, block, found, norms=True)
    _gated(found, f"{block}.mlp", config["hidden_size"], config["intermediate_size"])


def _gemma2(config: Config, index: int, block: str, found: Shapes) -> None:
    _attention(config, block, found)
    for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
        found[f"{block}.{norm}.weight"] = (config["hidden_size"],)
    _gated(found, f"{block}.mlp", config["hidden_size"], config["intermediate_size"])


def _qwen3_moe(config: Config, index: int, block: str, found: Shapes) -> None:
    _attention(config, block, found, norms=True)
    if index in config["mlp_only_layers"]:
        _gated(found, f"{block}.mlp", config["hidden_size"], config["intermediate_size"])
    else:
        _experts(config, block, found, config["num_experts"])


def _gpt_oss(config: Config, index: int, block: str, found: Shapes) -> None:
    _attention(config, block, found)
    count, hidden, inner = (config[key] for key in ("num_local_experts", "hidden_size", "intermediate_size"))
    found[f"{block}.self_attn.sinks"] = (config["num_attention_heads"],)
    _linear(found, f"{block}.mlp.router", count, hidden, bias=True)
    experts = f"{block}.mlp.experts"  # as published: the experts of a layer in one tensor, input channels first
    found[f"{experts}.gate_up_proj"] = (count, hidden, 2 * inner)
    found[f"{experts}.gate_up_proj_bias"] = (count, 2 * inner)
    found[f"{experts}.down_proj"] = (count, inner, hidden)
    found[f"{experts}.down_proj_bias"] = (count, hidden)


def _deepseek_v3(config: Config, index: int, block: str, found: Shapes) -> None:
    name, hidden, heads = f"{block}.self_attn", config["hidden_size"], config["num_attention_heads"]
    query_rank, rank, turned = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    keys, values = config["qk_nope_head_dim"], config["v_head_dim"]
    _linear(found, f"{name}.q_a_proj", query_rank, hidden, bias=config["attention_bias"])
    found[f"{name}.q_a_layernorm.weight"] = (query_rank,)
    _linear(found, f"{name}.q_b_proj", heads * (keys + turned), query_rank)
    _linear(found, f"{name}.kv_a_proj_with_mqa", rank + turned, hidden, bias=config["attention_bias"])
    found[f"{name}.kv_a_layernorm.weight"] = (rank,)
    _linear(found, f"{name}.kv_b_proj", heads * (keys + values), rank)
    _linear(found, f"{name}.o_proj", hidden, heads * values, bias=config["attention_bias"])
    if index < config["first_k_dense_replace"]:
        _gated(found, f"{block}.mlp", hidden, config["intermediate_size"])
        return
    _experts(config, block, found, config["n_routed_experts"])
    found[f"{block}.mlp.gate.e_score_correction_bias"] = (config["n_routed_experts"],)
    shared = config["moe_intermediate_size"] * config["n_shared_experts"]
    _gated(found, f"{block}.mlp.shared_experts", hidden, shared)


def _qwen3_next(config: Config, index: int, block: str, found: Shapes) -> None:
    hidden = config["hidden_size"]
    if config["layer_types"][index] == "full_attention":
        _attention(config, block, found, gated=2, norms=True)
    else:
        name, heads = f"{block}.linear_attn", config["linear_num_value_heads"]
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        values = heads * config["linear_value_head_dim"]
        _linear(found, f"{name}.in_proj_qkvz", 2 * keys + 2 * values, hidden)
        _linear(found, f"{name}.in_proj_ba", 2 * heads, hidden)
        found[f"{name}.conv1d.weight"] = (2 * keys + values, 1, config["linear_conv_kernel_dim"])
        found[f"{name}.dt_bias"] = found[f"{name}.A_log"] = (heads,)
        found[f"{name}.norm.weight"] = (config["linear_value_head_dim"],)
        _linear(found, f"{name}.out_proj", hidden, values)
    if index in config["mlp_only_layers"]:
        _gated(found, f"{block}.mlp", hidden, config["intermediate_size"])
        return
    _experts(config, block, found, config["num_experts"])
    _gated(found, f"{block}.mlp.shared_expert", hidden, config["shared_expert_intermediate_size"])
    _linear(found, f"{block}.mlp.shared_expert_gate", 1, hidden)


_LAYERS: Final[dict[str, Callable[[Config, int, str, Shapes], None]]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "deepseek_v3": _deepseek_v3,
    "qwen3_next": _qwen3_next,
}
