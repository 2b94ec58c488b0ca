"""Torch and transformers, asked in a process of their own, agree with what genqual reads without them."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest

from genqual.models import embedded, weights
from genqual.models.registry import resolve

from .conftest import TINY, Peer


@pytest.mark.parametrize("model", TINY)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_built_model_has_every_weight_and_no_other(peer: Peer, model: str, dtype: str) -> None:
    built = peer.answers[model]["dtypes"][dtype]
    assert {name: tuple(shape) for name, shape in built["shapes"].items()} == embedded.shapes(model)
    assert built["hash"] == weights.sha256(resolve(model))
    assert len(built["dtypes"]) == 1


@pytest.mark.parametrize("model", TINY)
def test_a_built_model_is_ready_to_run(peer: Peer, model: str) -> None:
    built = peer.answers[model]["dtypes"]["fp32"]
    assert (built["training"], built["requires_grad"]) == (False, False)
    assert built["eos"] == [None, None]
    assert built["pad"] == 0


@pytest.mark.parametrize("model", TINY)
def test_an_embedded_model_loads_from_a_directory_too(peer: Peer, model: str) -> None:
    assert peer.answers[f"load {model} by from_pretrained"] == {"hash": weights.sha256(resolve(model))}


@pytest.mark.parametrize("name", ["written", "whole"])
def test_a_whole_checkpoint_loads_as_it_was_written(peer: Peer, name: str) -> None:
    assert peer.answers[f"load {name}"] == {"hash": weights.sha256(resolve("llama-tiny"))}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("without head", "missing keys: lm_head.weight"),
        ("without norm", "missing keys: model.norm.weight"),
        ("with more", "unexpected keys: model.layers.0.self_attn.q_proj.extra"),
        ("with another's drafts", "eh_proj.weight"),
        ("misshapen", "model.norm.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(peer: Peer, name: str, told: str) -> None:
    assert told in peer.answers[f"load {name}"].get("error", "it was loaded")


@pytest.mark.parametrize("name", ["with a mask", "with drafts"])
def test_what_loaders_leave_aside_is_no_misfit(peer: Peer, name: str) -> None:
    """transformers calls GPT-2's `masked_bias` unexpected, and DeepSeek's drafts of any other number of layers."""
    assert peer.answers[f"load {name}"] == {"hash": weights.sha256(resolve("llama-tiny"))}


def test_experts_that_draft_are_left_aside_though_they_are_stacked(peer: Peer) -> None:
    """As DeepSeek-V3's, behind the last of any number of layers: their names are gone before they are missed."""
    assert "hash" in peer.answers["load experts"]
    assert peer.answers["load with drafts of experts"] == peer.answers["load experts"]


def test_an_architecture_that_this_release_lacks_is_unsupported_by_name(peer: Peer) -> None:
    told = peer.answers["load of tomorrow"]["unsupported"]
    assert f"transformers {version('transformers')} has no architecture llama_of_tomorrow" in told


def test_a_config_of_transformers_5_is_read_rightly_or_refused(peer: Peer) -> None:
    """transformers 4 would take its default rotary base for it, without a word."""
    answer = peer.answers["load config of 5"]
    if int(version("transformers").split(".")[0]) >= 5:
        assert answer == {"hash": weights.sha256(resolve("llama-tiny"))}
    else:
        assert "add rope_theta" in answer["error"]


def test_shards_written_by_transformers_are_read_without_it(peer: Peer) -> None:
    files = peer.answers["shards"]
    assert sum(file.endswith(".safetensors") for file in files) > 2
    spec = resolve(str(peer.room / "bloom-sharded"))
    assert weights.sha256(spec) == weights.sha256(resolve("bloom-tiny"))
    read, made = weights.read(spec), weights.read(resolve("bloom-tiny"))
    assert all(np.array_equal(read[name], made[name]) for name in made)
