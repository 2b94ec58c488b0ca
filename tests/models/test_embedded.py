"""The embedded models' shapes: awkward where it helps, divisible where it must."""

from __future__ import annotations

import math

import pytest

from genqual.conformance.oracle.registry import architecture_of
from genqual.errors import BadInput
from genqual.models import architectures, embedded

TIED = {"llama-odd", "qwen3-tiny", "gemma2-tiny"}


@pytest.mark.parametrize("name", embedded.NAMES)
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_axis_divides_over_the_ranks(name: str, ranks: int) -> None:
    config = embedded.config(name)
    divided = {"hidden_size", "vocab_size", "n_head", "num_attention_heads", "num_key_value_heads", "intermediate_size"}
    divided |= {"num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"}
    divided |= {"linear_num_key_heads", "linear_num_value_heads", "shared_expert_intermediate_size"}
    sizes = {key: value for key, value in config.items() if key in divided}
    assert len(sizes) == (3 if config["model_type"] == "bloom" else 5) + {
        "qwen3_moe": 2, "gpt_oss": 1, "deepseek_v3": 2, "qwen3_next": 5,
    }.get(str(config["model_type"]), 0)  # fmt: skip
    assert {key: value for key, value in sizes.items() if embedded.size(config, key) % ranks} == {}


def test_bloom_tiny_takes_the_second_branch_of_alibi() -> None:
    assert not math.log2(embedded.size(embedded.config("bloom-tiny"), "n_head")).is_integer()


@pytest.mark.parametrize("name", ["llama-tiny", "llama-30m"])
def test_llamas_group_their_queries(name: str) -> None:
    config = embedded.config(name)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (16, 8)


@pytest.mark.parametrize("name", embedded.NAMES)
def test_runs_never_stop_early_and_no_head_is_tied(name: str) -> None:
    config = embedded.config(name)
    assert config["eos_token_id"] is None
    assert config["tie_word_embeddings"] is (name in TIED)


@pytest.mark.parametrize("name", embedded.NAMES)
def test_every_byte_is_a_token(name: str) -> None:
    assert embedded.size(embedded.config(name), "vocab_size") >= 256 + embedded.BYTE_OFFSET


@pytest.mark.parametrize("name", embedded.NAMES)
def test_the_oracle_declares_the_same_weights(name: str) -> None:
    """Two declarations that know nothing of each other: this room imports no oracle."""
    model, _ = architecture_of(embedded.config(name)).declared(embedded.config(name))
    assert model.shapes() == embedded.shapes(name)


def test_no_value_of_the_odd_llama_is_the_common_one() -> None:
    odd, common = embedded.config("llama-odd"), embedded.config("llama-tiny")
    told = {"head_dim", "rms_norm_eps", "attention_bias", "mlp_bias", "tie_word_embeddings", "rope_theta"}
    assert {key for key in told if odd[key] == common[key]} == set()
    assert odd["head_dim"] != embedded.size(odd, "hidden_size") // embedded.size(odd, "num_attention_heads")
    assert odd["rope_scaling"]["rope_type"] == "llama3"  # type: ignore[index,call-overload]


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_windows_are_shorter_than_a_prompt(name: str) -> None:
    assert embedded.config(name).get("sliding_window", architectures.WINDOW) == architectures.WINDOW


@pytest.mark.parametrize("name", ["bloom-30m", "llama-30m"])
def test_timing_models_have_about_thirty_million_weights(name: str) -> None:
    assert sum(map(math.prod, embedded.shapes(name).values())) == pytest.approx(30e6, rel=0.05)


def test_a_config_is_a_copy() -> None:
    embedded.config("llama-tiny")["rope_parameters"]["rope_theta"] = 1.0  # type: ignore[index,call-overload]
    assert embedded.config("llama-tiny")["rope_parameters"]["rope_theta"] == 10000.0  # type: ignore[index,call-overload]


def test_another_name_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"bloom-huge.*bloom-tiny"):
        embedded.config("bloom-huge")
