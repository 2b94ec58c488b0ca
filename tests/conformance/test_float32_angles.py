"""Angles of positions in float32: what they alone move is explained, and nothing else is."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from genqual.cases import Case
from genqual.conformance.float32_angles import _Float32Rotary, with_float32_angles
from genqual.conformance.oracle.registry import oracle_for
from genqual.conformance.oracle.rotary import Rotary, fixed, plain
from genqual.conformance.scores import scores_of
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.session.reference_store import ReferenceStore
from tests.here import CPU

STEPS = 16


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("magnitude", [1.0, 1.35])
def test_the_rotation_is_the_oracles_but_for_what_float32_loses(interleaved: bool, magnitude: float) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1024, 20))  # 16 of 20 columns turn
    exact = Rotary(fixed(plain(150000.0, 16)), magnitude, interleaved)
    rounded = _Float32Rotary(exact.frequencies, magnitude, interleaved)
    off = np.abs(rounded(x, 0) - exact(x, 0)).max(axis=(0, 2))
    assert off[:8].max() < 2e-6
    assert 1e-6 < off[-64:].max() < 1024 * 2.0**-23 * 8
    assert np.array_equal(rounded(x, 0)[..., 16:], x[..., 16:])
    assert np.allclose(rounded(x[:, 700:], 700), rounded(x, 0)[:, 700:], rtol=0, atol=1e-15)


def oracle_of(model: str) -> Any:
    spec = resolve(model)
    return oracle_for(weights.config(spec), weights.read(spec))


def test_only_what_turns_has_such_an_oracle_and_the_exact_one_stays() -> None:
    assert with_float32_angles(oracle_of("bloom-tiny")) is None
    assert with_float32_angles(object()) is None
    exact, text = oracle_of("llama-tiny"), np.arange(3, 203)
    before = exact.logits(text)
    rounded = with_float32_angles(exact)
    assert rounded is not None
    error = rounded.logits(text) - before
    assert 1e-8 < float(np.sqrt((error**2).mean())) / before.std() < 1e-5
    assert np.array_equal(exact.logits(text), before)


@pytest.mark.parametrize(("times", "status"), [(1.0, "pass"), (1.2, "pass"), (1.4, "fail"), (-3.0, "fail")])
def test_an_fp32_run_may_be_as_far_off_as_its_angles_explain(times: float, status: str) -> None:
    """A limit that the model's own angles exceed, as those of a model with sharp attention exceed 1e-5."""
    text = np.random.default_rng(1).integers(3, 259, 201)
    exact = oracle_of("llama-tiny")
    rounded = with_float32_angles(exact)
    assert rounded is not None
    logits = exact.logits(text[:-1])[-STEPS:]
    run = scores_of((logits + times * (rounded.logits(text[:-1])[-STEPS:] - logits))[:, None], text[None, -STEPS:])
    case = Case(CPU, "transformers", "llama-tiny", "fp32", 1, 1)
    found = ReferenceStore(None).against_oracle(case, run, text, STEPS, limit=1e-9)
    assert found.status == status
    assert "angles in float32 alone read" in found.explanation
    assert found.limit is not None
    assert 1e-9 < found.limit < 1e-5
    wide = dataclasses.replace(run, projections=run.projections * 1.001)
    assert ReferenceStore(None).against_oracle(case, wide, text, STEPS, limit=1e-9).status == "fail"
