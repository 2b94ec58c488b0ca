"""The embedded models' shapes: awkward where it helps, divisible where it must."""

from __future__ import annotations

import math

import pytest

from genqual.errors import BadInput
from genqual.models import embedded


@pytest.mark.parametrize("name", embedded.NAMES)
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_axis_divides_over_the_ranks(name: str, ranks: int) -> None:
    config = embedded.config(name)
    divided = {"hidden_size", "vocab_size", "n_head", "num_attention_heads", "num_key_value_heads", "intermediate_size"}
    sizes = {key: value for key, value in config.items() if key in divided}
    assert len(sizes) == (3 if config["model_type"] == "bloom" else 5)
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
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("name", embedded.NAMES)
def test_every_byte_is_a_token(name: str) -> None:
    assert embedded.size(embedded.config(name), "vocab_size") >= 256 + embedded.BYTE_OFFSET


@pytest.mark.parametrize("name", ["bloom-30m", "llama-30m"])
def test_timing_models_have_about_thirty_million_weights(name: str) -> None:
    assert sum(map(math.prod, embedded.shapes(name).values())) == pytest.approx(30e6, rel=0.05)


def test_a_config_is_a_copy() -> None:
    embedded.config("llama-tiny")["rope_parameters"]["rope_theta"] = 1.0  # type: ignore[index,call-overload]
    assert embedded.config("llama-tiny")["rope_parameters"]["rope_theta"] == 10000.0  # type: ignore[index,call-overload]


def test_another_name_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"bloom-huge.*bloom-tiny"):
        embedded.config("bloom-huge")
