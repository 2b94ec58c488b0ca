"""What configurations and checkpoints of mixtures say beside the usual: taken as meant, or refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genqual.conformance.oracle.registry import architecture_of, oracle_for
from genqual.errors import BadInput

from .small import IDS, SMALL, parameters


def logits(config: dict[str, Any], weights: dict[str, Any] | None = None) -> Any:
    return oracle_for(config, weights or parameters(config)).logits(IDS[:20])


def test_a_window_of_zero_that_is_not_used_is_none() -> None:
    config = SMALL["qwen2_moe"] | {"use_sliding_window": False, "layer_types": None}
    np.testing.assert_array_equal(logits(config | {"sliding_window": 0}), logits(config))


def test_windows_of_unsaid_layers_are_refused() -> None:
    config = SMALL["qwen2_moe"] | {"layer_types": None}
    with pytest.raises(BadInput, match="use_sliding_window = True without layer_types"):
        architecture_of(config).declared(config)
    said = SMALL["qwen2_moe"] | {"use_sliding_window": False}
    with pytest.raises(BadInput, match="layer_types has sliding_attention"):
        architecture_of(said).declared(said)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"])
def test_both_names_of_the_count_of_experts_are_one_field(name: str) -> None:
    config = SMALL[name]
    one, other = ("num_experts", "num_local_experts")
    count = config.get(one) or config[other]
    bare = {key: value for key, value in config.items() if key not in (one, other)}
    np.testing.assert_array_equal(logits(bare | {one: count}), logits(bare | {other: count}))
    with pytest.raises(BadInput, match=f"{one}.*{other}|{other}.*{one}"):
        logits(bare | {one: count, other: count + 1}, parameters(config))


def test_the_correction_bias_is_read_from_the_checkpoint() -> None:
    config, weights = SMALL["deepseek_v3"], parameters(SMALL["deepseek_v3"])
    names = [name for name in weights if name.endswith("e_score_correction_bias")]
    assert names == [f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in (1, 2, 3)]
    without = {name: array for name, array in weights.items() if name not in names[:1]}
    with pytest.raises(BadInput, match=names[0].replace(".", r"\.")):
        oracle_for(config, without)
    zero = {**weights, **{name: np.zeros_like(weights[name]) for name in names}}
    assert np.abs(logits(config, zero) - logits(config, weights)).max() > 1e-3


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_layers_that_draft_tokens_are_left_aside_where_the_configuration_has_them(prefix: str) -> None:
    config, weights = SMALL["deepseek_v3"], parameters(SMALL["deepseek_v3"])
    bare = {name.removeprefix("model.") if not prefix else name: array for name, array in weights.items()}
    draft = {**bare, f"{prefix}layers.4.eh_proj.weight": np.ones((32, 64), dtype=np.float32)}
    for field in ("num_nextn_predict_layers", "num_mtp_layers"):
        np.testing.assert_array_equal(logits(config | {field: 1}, draft), logits(config, weights))
    with pytest.raises(BadInput, match="eh_proj"):
        oracle_for(config, draft)


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("deepseek_v3", {"topk_group": 5}, "5 of 4 groups"),
        ("deepseek_v3", {"num_experts_per_tok": 7}, "top 7"),
        ("deepseek_v2", {"n_group": None}, "n_group"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func"),
        ("gpt_oss", {"hidden_act": "gelu"}, "hidden_act"),
        ("mixtral", {"router_temperature": 2.0}, "router_temperature"),
        ("qwen3_moe", {"mlp_only_layers": "none"}, "mlp_only_layers"),
        ("qwen3_moe", {"num_experts_per_tok": 7}, "top 7"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(name: str, wrong: dict[str, Any], words: str) -> None:
    config = {**SMALL[name], **wrong}
    with pytest.raises(BadInput, match=words):
        architecture_of(config).declared(config)


def test_published_fields_that_change_no_logits_are_taken() -> None:
    published: dict[str, dict[str, Any]] = {
        "mixtral": {"router_aux_loss_coef": 0.02, "output_router_logits": False, "router_jitter_noise": 0.1},
        "qwen3_moe": {"router_aux_loss_coef": 0.001, "max_window_layers": 48},
        "gpt_oss": {"initial_context_length": 4096, "experts_per_token": 3, "router_aux_loss_coef": 0.9},
        "deepseek_v2": {"aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1, "moe_layer_freq": 1}
        | {"scoring_func": "softmax", "pretraining_tp": 1},
        "deepseek_v3": {"ep_size": 1, "moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}
        | {"num_nextn_predict_layers": 1, "qk_head_dim": 20, "head_dim": 8},
    }
    for name, fields in published.items():
        np.testing.assert_array_equal(logits({**SMALL[name], **fields}), logits(SMALL[name]))


def test_every_second_layer_is_a_mixture_where_the_configuration_says_so() -> None:
    config = SMALL["deepseek_v3"] | {"moe_layer_freq": 2}
    shapes = architecture_of(config).declared(config)[0].shapes()
    assert {int(name.split(".")[2]) for name in shapes if ".experts." in name} == {2}
