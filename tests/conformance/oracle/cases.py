"""The cases that transformers is asked about: each architecture as it is, and with each of its fields changed."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from typing import Any

from .recurrent import SHAPES
from .small import SMALL, Config
from .variations import variations

_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
_ROTATIONS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 3.0},
    "llama3": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "yarn": _YARN,
    "yarn-mscale": _YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "beta_fast": 8, "beta_slow": 2},
    "yarn-attention-factor": _YARN | {"attention_factor": 1.7, "truncate": False, "beta_fast": 4.5},
}


@dataclass(frozen=True)
class Case:
    """A configuration, and the attention that transformers computes it with."""

    config: Config
    attention: str = "eager"


def _case(config: Config) -> Case:
    # In the eager way transformers 5 adds Falcon's ALiBi twice: in the mask, and to the scores.
    return Case(config, "sdpa" if config.get("alibi") else "eager")


def _rotations() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for name, rope in _ROTATIONS.items():
        for model_type, longest in (("llama", 128), ("qwen3", 100)):
            bare = {k: v for k, v in SMALL[model_type].items() if k != "rope_theta"}
            found[f"{model_type}: {name}"] = Case(bare | {"rope_parameters": rope, "max_position_embeddings": longest})
    older = {k: v for k, v in _YARN.items() if k != "rope_theta"}
    found["llama: yarn of 4.x"] = Case({**SMALL["llama"], "rope_theta": 300.0, "rope_scaling": older})
    long: dict[str, Any] = {"rope_type": "longrope", "short_factor": [1.1, 1.5], "long_factor": [2.0, 6.0]}
    for name, original in (("short", 200), ("long", 64)):
        found[f"phi3: longrope {name}"] = Case(
            {**SMALL["phi3"], "rope_scaling": long, "original_max_position_embeddings": original}
        )
    far: dict[str, Any] = {"rope_type": "linear", "factor": 4.0}
    found["gemma3_text: scaled far"] = Case({**SMALL["gemma3_text"], "rope_scaling": far})
    both = {"full_attention": far | {"rope_theta": 900.0}, "sliding_attention": {"rope_theta": 30.0}}
    bare = {k: v for k, v in SMALL["gemma3_text"].items() if not k.startswith("rope")}
    found["gemma3_text: both spelled new"] = Case(bare | {"rope_parameters": both})
    found["gpt_neox: linear"] = Case({**SMALL["gpt_neox"], "rope_scaling": {"type": "linear", "factor": 2.0}})
    return found


def _others() -> dict[str, Case]:
    falcon = {k: v for k, v in SMALL["falcon"].items() if k not in ("new_decoder_architecture", "num_kv_heads")}
    return {
        "falcon: one key head": Case(falcon),
        "falcon: many key heads": Case(falcon | {"multi_query": False, "bias": True}),
        "falcon: one after the other": Case(falcon | {"parallel_attn": False}),
        "falcon: one norm": Case(SMALL["falcon"] | {"num_ln_in_parallel_attn": 1}),
        "falcon: alibi": _case(falcon | {"alibi": True}),
        "falcon: alibi of 6 heads": _case(falcon | {"alibi": True, "num_attention_heads": 6, "hidden_size": 48}),
        "opt: norms after": Case(SMALL["opt"] | {"do_layer_norm_before": False}),
        "opt: no affine": Case(SMALL["opt"] | {"layer_norm_elementwise_affine": False, "enable_bias": False}),
        "opt: as wide": Case(SMALL["opt"] | {"word_embed_proj_dim": 32}),
        "gpt_neox: no biases": Case(SMALL["gpt_neox"] | {"attention_bias": False, "tie_word_embeddings": True}),
        "mpt: plain": Case({**SMALL["mpt"], "attn_config": {}, "n_heads": 4}),
        "starcoder2: no biases": Case(SMALL["starcoder2"] | {"use_bias": False}),
        "bloom: 14 heads": Case(SMALL["bloom"] | {"hidden_size": 56, "n_head": 14}),
        **{
            f"{name}: the other head": Case(SMALL[name] | {"tie_word_embeddings": True})
            for name in ("llama", "qwen2", "qwen3", "granite", "phi3", "olmo2", "mistral")
        },
        **{
            f"{name}: the other head": Case(SMALL[name] | {"tie_word_embeddings": False})
            for name in ("gemma", "gemma2", "gemma3_text", "gpt2", "opt", "falcon", "bloom", "mpt", "starcoder2")
        },
        "qwen2: layer_types": Case(
            SMALL["qwen2"] | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
        ),
        **{f"{name}: biases": Case(SMALL[name] | {"attention_bias": True}) for name in ("qwen3", "gemma2", "olmo2")},
    }


def _mixtures() -> dict[str, Case]:
    found: dict[str, Case] = {
        "gpt_oss: no biases": Case(SMALL["gpt_oss"] | {"attention_bias": False}),
        "gpt_oss: yarn": Case(SMALL["gpt_oss"] | {"rope_parameters": _YARN | {"truncate": False}}),
        "gpt_oss: layer_types": Case(
            SMALL["gpt_oss"] | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
        ),
        "gpt_oss: as published": Case(
            {k: v for k, v in SMALL["gpt_oss"].items() if not k.startswith("swiglu")}
            | {"rope_parameters": _YARN | {"truncate": False, "beta_fast": 32.0, "beta_slow": 1.0}}
        ),
        "qwen2_moe: as published": Case(
            {k: v for k, v in SMALL["qwen2_moe"].items() if k != "layer_types"} | {"use_sliding_window": False}
        ),
        "mixtral: no window": Case(SMALL["mixtral"] | {"sliding_window": None}),
        "qwen2_moe: no biases": Case(SMALL["qwen2_moe"] | {"qkv_bias": False}),
        "qwen3_moe: biases": Case(SMALL["qwen3_moe"] | {"attention_bias": True, "mlp_only_layers": [1]}),
        "deepseek_v2: biases of the MLPs": Case(SMALL["deepseek_v2"] | {"mlp_bias": True}),
        "deepseek_v2: one group": Case(SMALL["deepseek_v2"] | {"topk_method": "greedy", "n_group": 1, "topk_group": 1}),
    }
    older = {k: v for k, v in _YARN.items() if k != "rope_theta"} | {"mscale": 1.0, "mscale_all_dim": 1.0}
    for name in ("deepseek_v2", "deepseek_v3"):
        small = SMALL[name]
        found |= {
            f"{name}: queries without a latent": Case(small | {"q_lora_rank": None}),
            f"{name}: biases": Case(small | {"attention_bias": True}),
            f"{name}: yarn": Case(small | {"rope_parameters": _ROTATIONS["yarn-mscale"]}),
            f"{name}: yarn of 4.x": Case({**small, "rope_theta": 300.0, "rope_scaling": older}),
        }
    found |= {
        f"{name}: the other head": Case(SMALL[name] | {"tie_word_embeddings": True})
        for name in ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3")
    }
    return found


DEPARTS = {"deepseek_v2: norm_topk_prob=True"}
"""Where transformers departs from the published definition, which the oracle follows: see the architecture's file."""

REFUSED_BY_OLD = {"opt: no affine", "deepseek_v2: biases of the MLPs"}
"""What 4.55 cannot build: norms without a weight; experts with biases that no published checkpoint has."""


def departs_in_old(name: str, config: Config) -> str:
    """Why transformers 4.55 computes another model than `config`, which the oracle and transformers 5 follow, or ""."""
    kind, rope = config["model_type"], config.get("rope_scaling") or {}
    if kind == "mamba2" and config.get("n_groups", 8) > 1:
        return "its gated norm is one over all groups"
    if kind == "qwen2_moe" and config.get("use_sliding_window") and "sliding_window" in config:
        return "it reads no layer_types"
    if kind == "gpt_oss" and (not rope or "swiglu_limit" in config or "swiglu_alpha" in config):
        return "swiglu_limit and swiglu_alpha are constants; without rope_scaling, YaRN begins at the longest text"
    if kind == "gpt_oss" and config.get("attention_bias") is False:
        return "it has the biases of attention whatever the configuration says"
    if kind == "deepseek_v2" and rope.get("mscale_all_dim"):
        return "scores are not scaled by YaRN's mscale_all_dim"
    if name == "deepseek_v3: topk_group=1":
        return "experts of other groups score 0, which is above a score below zero, where they should score -inf"
    if "yarn" in (rope.get("rope_type"), rope.get("type")):
        factor = config["max_position_embeddings"] / rope["original_max_position_embeddings"]
        return "" if rope["factor"] == factor else "YaRN's factor is the ratio of lengths, whatever factor says"
    return ""


OLD = importlib.metadata.version("transformers").startswith("4.")


def older(config: Config) -> dict[str, Any]:
    """`config` as transformers 4.55 writes it: bases beside `rope_scaling`. The new spelling it would not see."""
    found = dict(config)
    new = found.pop("rope_parameters", None)
    if new is None:
        if found["model_type"] == "phi3" and "rope_scaling" in found:  # its 4.55 takes no other word
            found["rope_scaling"] = {"type" if k == "rope_type" else k: v for k, v in found["rope_scaling"].items()}
        return found
    if "sliding_attention" in new:
        found["rope_local_base_freq"] = new["sliding_attention"]["rope_theta"]
        new = new["full_attention"]
    theta = {"rope_theta": new["rope_theta"]} if "rope_theta" in new else {}
    return found | theta | {"rope_scaling": {k: v for k, v in new.items() if k != "rope_theta"}}


NEWER: dict[str, Case] = {
    **{name: Case(config) for name, config in SMALL.items()},
    **{
        f"{name}: {change}": _case(changed)
        for name, config in SMALL.items()
        for change, changed in variations(config).items()
    },
    **_rotations(),
    **_others(),
    **{name: Case(config) for name, config in SHAPES.items()},
    **_mixtures(),
}
CASES = {name: replace(case, config=older(case.config)) for name, case in NEWER.items()} if OLD else NEWER
"""In the spelling of the release that is asked."""
