"""The MLPs of dense models: plain (Vaswani et al. 2017), gated (Shazeer 2020), and the activations by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf, sqrt
from typing import Final

import numpy as np

from genqual.conformance.oracle.core import F64, At, Part, Shape
from genqual.conformance.oracle.linear import Linear

_erf: Final = np.vectorize(erf, otypes=[np.float64])


def silu(x: F64) -> F64:
    """x times its logistic (Elfwing 2017)."""
    # exp of a large -x overflows to inf, and x / inf is the right limit, -0.
    with np.errstate(over="ignore"):
        y: F64 = x / (1.0 + np.exp(-x))
    return y


def sigmoid(x: F64) -> F64:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):
        y: F64 = 1.0 / (1.0 + np.exp(-x))
    return y


def gelu(x: F64) -> F64:
    """x times the normal distribution function (Hendrycks and Gimpel 2016), by the error function."""
    return 0.5 * x * (1.0 + np.asarray(_erf(x / sqrt(2.0)), dtype=np.float64))


def gelu_tanh(x: F64) -> F64:
    """The tanh approximation of the same paper."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(sqrt(2.0 / np.pi) * (x + 0.044715 * x * x * x))), dtype=np.float64)


def gelu_fast(x: F64) -> F64:
    """The tanh approximation with sqrt(2/pi) rounded to ten digits, as models of that name are defined."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(0.7978845608 * x * (1.0 + 0.044715 * x * x))), dtype=np.float64)


def gelu_megatron(x: F64) -> F64:
    """The tanh approximation with Megatron's 0.79788456 for sqrt(2/pi): BLOOM is defined by the rounded constant."""
    return np.asarray(0.5 * x * (1.0 + np.tanh(0.79788456 * x * (1.0 + 0.044715 * x * x))), dtype=np.float64)


def quick_gelu(x: F64) -> F64:
    """x times the logistic of 1.702 x (same paper)."""
    return x * sigmoid(1.702 * x)


def relu(x: F64) -> F64:
    """x where it is positive, else 0."""
    return np.maximum(x, 0.0)


def relu_squared(x: F64) -> F64:
    """The square of relu (So et al. 2021)."""
    return np.square(np.maximum(x, 0.0))


ACTIVATIONS: Final[dict[str, Callable[[F64], F64]]] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_fast": gelu_fast,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu2": relu_squared,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}
"""By the names that configurations use."""


@dataclass(frozen=True)
class Mlp(Part):
    """Up, `activation`, down."""

    up: Linear
    down: Linear
    activation: Callable[[F64], F64]

    def shapes(self) -> dict[str, Shape]:
        return self.up.shapes() | self.down.shapes()

    def ends(self) -> tuple[str, str]:
        return self.up.name, self.down.name

    def __call__(self, x: F64, at: At) -> F64:
        return self.down(self.activation(self.up(x, at)), at)


@dataclass(frozen=True)
class GatedMlp(Part):
    """`activation` of the gate times up, then down."""

    gate: Linear
    up: Linear
    down: Linear
    activation: Callable[[F64], F64]

    def shapes(self) -> dict[str, Shape]:
        return self.gate.shapes() | self.up.shapes() | self.down.shapes()

    def ends(self) -> tuple[str, str]:
        return self.gate.name, self.down.name

    def __call__(self, x: F64, at: At) -> F64:
        return self.down(self.activation(self.gate(x, at)) * self.up(x, at), at)


@dataclass(frozen=True)
class FusedGatedMlp(Part):
    """As `GatedMlp`, gate and up being the first and second half of one linear's output."""

    both: Linear
    down: Linear
    activation: Callable[[F64], F64]

    def shapes(self) -> dict[str, Shape]:
        return self.both.shapes() | self.down.shapes()

    def ends(self) -> tuple[str, str]:
        return self.both.name, self.down.name

    def __call__(self, x: F64, at: At) -> F64:
        gate, up = np.split(self.both(x, at), 2, axis=-1)
        return self.down(self.activation(gate) * up, at)


def gated(name: str, inner: int, hidden: int, activation: str, *, bias: bool = False) -> GatedMlp:
    """Llama's names: `name`.gate_proj, .up_proj, .down_proj."""
    return GatedMlp(
        Linear(f"{name}.gate_proj", inner, hidden, bias),
        Linear(f"{name}.up_proj", inner, hidden, bias),
        Linear(f"{name}.down_proj", hidden, inner, bias),
        ACTIVATIONS[activation],
    )
