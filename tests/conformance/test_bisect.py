"""Layer by layer: the first that is wrong is named, a fault-free engine has none."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.conformance.bisect import LayerError, allowed, compare, first_bad, oracle_states, said
from genqual.conformance.oracle.registry import oracle_for
from genqual.errors import BadInput

from .small import BLOOM, LLAMA, parameters

IDS = [5, 17, 3, 99, 42]


@pytest.mark.parametrize("config", [LLAMA, BLOOM], ids=["llama", "bloom"])
def test_the_parts_of_the_oracle_are_the_oracle(config: dict[str, object]) -> None:
    oracle = oracle_for(config, parameters(config))
    _, logits = oracle_states(oracle, IDS)  # type: ignore[arg-type]
    assert np.array_equal(logits, oracle.logits(IDS))


@pytest.mark.parametrize("config", [LLAMA, BLOOM], ids=["llama", "bloom"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_that_is_wrong_is_named(config: dict[str, object], layer: int) -> None:
    weights = parameters(config)
    right = oracle_for(config, weights)
    name = next(n for n in weights if f".{layer}." in n and n.endswith(("down_proj.weight", "dense_4h_to_h.weight")))
    wrong = oracle_for(config, {**weights, name: weights[name] * np.float32(1.05)})
    states, logits = oracle_states(wrong, IDS)  # type: ignore[arg-type]
    steps = compare(np.stack(states).astype("f4"), logits.astype("f4"), right, IDS, "fp32")  # type: ignore[arg-type]
    bad = first_bad(steps)
    assert bad is not None
    assert bad.place == f"layer {layer}"
    assert f"layer {layer}, at token" in said(steps, "fp32")


def test_an_honest_engine_has_no_bad_layer_and_a_nan_has_left() -> None:
    oracle = oracle_for(LLAMA, parameters(LLAMA))
    states, logits = oracle_states(oracle, IDS)  # type: ignore[arg-type]
    got = np.stack(states).astype("f4")
    assert first_bad(compare(got, logits.astype("f4"), oracle, IDS, "fp32")) is None  # type: ignore[arg-type]
    got[2, 3, 0] = np.nan
    bad = first_bad(compare(got, logits.astype("f4"), oracle, IDS, "bf16"))  # type: ignore[arg-type]
    assert bad is not None
    assert (bad.place, bad.token) == ("layer 1", 3)


@pytest.mark.parametrize(
    ("dtype", "most"),
    [("fp32", 1e-5), ("bf16", 2.0**-5), ("fp16", 2.0**-8), ("int8-weight", 2.0**-2), ("int8-dynamic", 2.0**-2)],
)
@pytest.mark.parametrize("by", [0.99, 1.01])
def test_a_place_has_left_above_what_its_dtype_allows(dtype: str, most: float, by: float) -> None:
    """The states of one place are off by one factor, their relative error; 16 roundings are allowed, in int8 32."""
    oracle = oracle_for(LLAMA, parameters(LLAMA))
    states, logits = oracle_states(oracle, IDS)  # type: ignore[arg-type]
    got = np.stack(states)
    got[1] *= 1 + by * most
    steps = compare(got, logits, oracle, IDS, dtype)  # type: ignore[arg-type]
    assert [step.left for step in steps] == [False, by > 1, *[False] * (len(steps) - 2)]
    assert steps[1].error == pytest.approx(by * most, rel=1e-6)
    assert allowed(dtype) == most


def test_a_precision_whose_rounding_explains_every_error_is_refused() -> None:
    with pytest.raises(BadInput, match=r"fp8: its rounding is too coarse.*fp32, bf16, fp16, int8"):
        allowed("fp8")


@pytest.mark.parametrize(
    ("errors", "bad"),
    [
        ((0.0, 2e-6, 15e-6), None),
        ((0.0, 2e-6, 17e-6), "layer 1"),  # within what is allowed, but eight times what it was given
        ((0.0, 0.9e-6, 9e-6), None),  # rounding has no ratio
        ((1.1e-6, 9e-6, 9e-6), "layer 0"),
    ],
)
def test_an_error_that_jumps_is_where_the_fault_is(errors: tuple[float, ...], bad: str | None) -> None:
    places = ("embedding", "layer 0", "layer 1")
    steps = [LayerError(place, error, 0, left=False) for place, error in zip(places, errors, strict=True)]
    found = first_bad(steps)
    assert (found and found.place) == bad


def test_another_number_of_layers_is_refused() -> None:
    oracle = oracle_for(LLAMA, parameters(LLAMA))
    with pytest.raises(BadInput, match="places, tokens, hidden"):
        compare(np.zeros((2, 5, 64), "f4"), np.zeros((5, 256), "f4"), oracle, IDS, "fp32")  # type: ignore[arg-type]
