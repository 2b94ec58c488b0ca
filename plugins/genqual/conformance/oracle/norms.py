"""Norms over the last axis: root mean square (Zhang and Sennrich 2019), one plus weight, and layer norm (Ba 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.core import F64, At, Part, Shape


def rms(x: F64, eps: float) -> F64:
    """`x` (..., width) over the root of its mean square plus `eps`."""
    scaled: F64 = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return scaled


def layer(x: F64, eps: float) -> F64:
    """`x` (..., width) less its mean, over the root of its variance plus `eps`."""
    return rms(x - x.mean(axis=-1, keepdims=True), eps)


@dataclass(frozen=True)
class Norm(Part):
    """`kind` "rms" or "layer", times `name`.weight (plus one where `one_plus`: Gemma), plus `name`.bias where `bias`.

    `scaled` False: neither weight nor bias.
    """

    name: str
    width: int
    eps: float
    kind: str = "rms"
    bias: bool = False
    one_plus: bool = False
    scaled: bool = True

    def shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.name}.weight": (self.width,)} if self.scaled else {}
        return shapes | ({f"{self.name}.bias": (self.width,)} if self.bias else {})

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (..., width), of the same shape."""
        y = rms(x, self.eps) if self.kind == "rms" else layer(x, self.eps)
        if self.scaled:
            weight = at.weights[f"{self.name}.weight"]
            y = y * (1.0 + weight if self.one_plus else weight)
        return y + at.weights[f"{self.name}.bias"] if self.bias else y


def layer_norm(name: str, width: int, eps: float, *, bias: bool = True) -> Norm:
    """A layer norm with a weight, and a bias unless said otherwise."""
    return Norm(name, width, eps, kind="layer", bias=bias)
