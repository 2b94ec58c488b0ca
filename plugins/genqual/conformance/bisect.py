"""Find the first layer whose output is off by more than rounding, against the oracle. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64, CausalOracle
from genqual.conformance.tolerance import INT8_UNIT, MOST_ROUNDINGS
from genqual.errors import BadInput

ALLOWED: Final = {"fp32": 1e-5, "bf16": 16 * 2.0**-9, "fp16": 16 * 2.0**-12}
"""Relative error of hidden states that is fault-free after any number of layers, as of the logits (docs/judge.md)."""

# Right runs of int8-weight, -dynamic and -smoothquant read 0.02 to 0.12 on llama-tiny, llama-odd and bloom-tiny.
_INT8: Final = MOST_ROUNDINGS * INT8_UNIT

JUMP: Final = 8.0  # a layer whose own output is right adds less than this many times the error that it was given
FLOOR: Final = 1e-6  # errors below it are rounding of fp32, whose ratios say nothing


def allowed(dtype: str) -> float:
    """The relative error of hidden states that `dtype` explains. Raises BadInput where it would explain any."""
    if dtype in ALLOWED:
        return ALLOWED[dtype]
    if dtype.startswith("int8"):
        return _INT8
    known = ", ".join((*ALLOWED, "int8"))
    raise BadInput(f"{dtype}: its rounding is too coarse to tell a layer by; bisect in another precision: {known}")


@dataclass(frozen=True, slots=True)
class LayerError:
    """One place: `error` is RMS error over RMS of the oracle's states; `token` the worst one, from 0."""

    place: str
    error: float
    token: int
    left: bool


def oracle_states(oracle: CausalOracle, ids: Sequence[int]) -> tuple[list[F64], F64]:
    """What enters layer 0 and leaves each layer, (tokens, hidden) each, and the logits (tokens, vocabulary)."""
    row = oracle.checked(ids)
    cache = oracle.cache()
    states = [oracle.embed(row)]
    for index in range(oracle.layers):
        states.append(oracle.layer(index, states[-1], cache))
    return states, oracle.head(states[-1])


def compare(
    states: NDArray[np.float32], logits: NDArray[np.float32], oracle: CausalOracle, ids: Sequence[int], dtype: str
) -> list[LayerError]:
    """Each place in turn, the engine's against the oracle's. Raises BadInput on another number of layers or shape."""
    exact, last = oracle_states(oracle, ids)
    if len(states) != len(exact) or any(a.shape != b.shape for a, b in zip(states, exact, strict=True)):
        raise BadInput(
            f"the engine shows {states.shape} (places, tokens, hidden), the oracle has {len(exact)} of {exact[0].shape}"
        )
    names = ["embedding", *(f"layer {index}" for index in range(oracle.layers))]
    found = [_step(*each, dtype) for each in zip(names, states, exact, strict=True)]
    centred = [x - x.mean(axis=-1, keepdims=True) for x in (logits.astype(np.float64), last)]
    return [*found, _step("norm and head", centred[0], centred[1], dtype)]


def first_bad(steps: Sequence[LayerError]) -> LayerError | None:
    """The first place that is off by more than rounding, or where the error jumps; None where none is."""
    for before, step in zip([None, *steps], steps, strict=False):
        if step.left or (before is not None and before.error > FLOOR and step.error > JUMP * before.error):
            return step
    return None


def said(steps: Sequence[LayerError], dtype: str) -> str:
    """One sentence for the person who has to look further."""
    bad = first_bad(steps)
    if bad is None:
        worst = max(steps, key=lambda step: step.error)
        return f"Every place agrees with the oracle, the worst, {worst.place}, by {worst.error:.2g} ({dtype})."
    before = steps[[step.place for step in steps].index(bad.place) - 1] if bad is not steps[0] else None
    was = f"; {before.place} before it reads {before.error:.2g}" if before else ""
    return (
        f"The first place that is off by more than rounding in {dtype} is {bad.place}, at token {bad.token}: "
        "relative error "
        f"{bad.error:.3g}, allowed {ALLOWED.get(dtype, ALLOWED['bf16']):.2g}{was}."
    )


def _step(place: str, got: NDArray[np.floating], want: F64, dtype: str) -> LayerError:
    error = got.astype(np.float64) - want
    size = float(np.sqrt((want * want).mean()))
    each = np.sqrt((error * error).mean(axis=-1)) / size
    whole = float(np.sqrt((error * error).mean())) / size
    token = int(np.where(np.isfinite(each), each, np.inf).argmax())
    # Written so that an error that is not a number has left.
    return LayerError(place, whole, token, not whole <= allowed(dtype))
