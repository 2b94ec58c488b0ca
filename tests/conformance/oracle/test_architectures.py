"""Each architecture against transformers in another process, as it is and with each of its fields changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genqual.conformance.oracle.registry import oracle_for, supported

from .cases import CASES, DEPARTS, NEWER, OLD, REFUSED_BY_OLD, departs_in_old, older
from .conftest import Answers
from .small import IDS, SMALL, parameters, stacked
from .variations import variations

PARTLY = {"mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3", "qwen3_next", "lfm2", "mamba2"}
"""A mixture of experts and a recurrence have no one linear at their ends."""


def nrms(got: NDArray[Any], want: NDArray[Any]) -> float:
    """The judge's statistic over whole rows of logits, written out again."""
    error = (got - got.mean(-1, keepdims=True)) - (want - want.mean(-1, keepdims=True))
    return float(np.sqrt((error**2).mean()) / np.sqrt(want.var(axis=-1).mean()))


def test_no_architecture_goes_without_a_case() -> None:
    assert set(SMALL) == set(supported())


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_transformers(answers: Answers, name: str) -> None:
    config = CASES[name].config
    ours = oracle_for(config, parameters(config)).logits(IDS)
    if OLD and (name in REFUSED_BY_OLD or config["model_type"] == "qwen3_next"):
        assert name not in answers, "transformers takes it now: take it off the list"
        return
    if name in DEPARTS or (OLD and departs_in_old(name, config)):
        assert nrms(answers[name]["fp64"], ours) > 1e-2, "transformers follows the definition now: take it off the list"
        return
    assert nrms(answers[name]["fp64"], ours) <= 1e-12
    if name in SMALL:
        assert nrms(answers[name]["fp32"], ours) <= 1e-5


@pytest.mark.parametrize("name", [name for name, case in NEWER.items() if "rope_parameters" in case.config])
def test_the_spelling_of_transformers_4_is_the_same_model(name: str) -> None:
    new, old = NEWER[name].config, older(NEWER[name].config)
    assert "rope_parameters" not in old
    assert old["rope_scaling"]
    weights = parameters(new)
    np.testing.assert_array_equal(oracle_for(old, weights).logits(IDS), oracle_for(new, weights).logits(IDS))


MIXTURES = [name for name in SMALL if "experts" in " ".join(parameters(SMALL[name]))]


@pytest.mark.parametrize("name", SMALL)
def test_every_part_is_where_the_declaration_says(answers: Answers, name: str) -> None:
    """Faults find norms, linears and activations of a running model so: channels shifted there move the logits."""
    if OLD and SMALL[name]["model_type"] == "qwen3_next":
        assert name not in answers
        return
    moved = answers[name]["moved"]
    absent = np.isnan(moved)
    assert (moved[~absent] > 1e-3).all()
    assert absent.sum() <= (7 if name in PARTLY else 0)


@pytest.mark.parametrize("name", SMALL)
def test_every_field_matters(name: str) -> None:
    """A field that changes nothing is either not declared, or not computed."""
    config = SMALL[name]
    plain = oracle_for(config, parameters(config)).logits(IDS)
    same = [
        change
        for change, changed in variations(config).items()
        if nrms(oracle_for(changed, parameters(config)).logits(IDS), plain) < 1e-6
    ]
    assert not same


@pytest.mark.parametrize("name", SMALL)
def test_token_by_token_is_one_pass(name: str) -> None:
    config = SMALL[name]
    oracle: Any = oracle_for(config, parameters(config))
    whole, cache = oracle.logits(IDS[:60]), oracle.cache()
    parts = [IDS[:17], *([token] for token in IDS[17:60])]
    rows = [oracle.head(oracle.states(oracle.checked(part), cache)) for part in parts]
    assert cache.length == 60
    np.testing.assert_allclose(np.concatenate(rows), whole, atol=1e-11)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_in_one_tensor_a_layer_say_the_same_bit_for_bit(name: str) -> None:
    config, published = SMALL[name], parameters(SMALL[name])
    plain = oracle_for(config, published).logits(IDS)
    np.testing.assert_array_equal(oracle_for(config, stacked(published)).logits(IDS), plain)
    bare = {stored.removeprefix("model."): array for stored, array in stacked(published).items()}
    np.testing.assert_array_equal(oracle_for(config, bare).logits(IDS), plain)
