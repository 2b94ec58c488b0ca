"""Mamba-2's selective state space in its recurrent form. Pure: NumPy.

Source: Dao and Gu 2024, "Transformers are SSMs", section 2 and listing 1: with one scalar decay a head,
h_t = exp(dt_t a) h_{t-1} + dt_t x_t b_t^T and y_t = h_t c_t + d x_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.convolution import Convolution
from genqual.conformance.oracle.core import F64, At, Part, Shape
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import silu
from genqual.conformance.oracle.norms import rms


def state_space(x: F64, dt: F64, a: F64, b: F64, c: F64, d: F64, state: F64 | None = None) -> tuple[F64, F64]:
    """Outputs like `x` (tokens, heads, width) and the new state (heads, width, state size).

    `dt` >= 0 (tokens, heads) are the steps after softplus and limits; `a` < 0 and `d` (heads,); `b`, `c` (tokens,
    groups, state size), group i serving `heads / groups` neighbouring heads. `state` is None at the start of a
    sequence. Raises ValueError when the heads do not divide.
    """
    heads, groups = x.shape[1], b.shape[1]
    if heads % groups:
        raise ValueError(f"{heads} heads over {groups} groups: not a multiple")
    b, c = (np.repeat(array, heads // groups, axis=1) for array in (b, c))
    kept = np.zeros((heads, x.shape[2], b.shape[2])) if state is None else state
    out = np.empty(x.shape)
    for t in range(len(x)):
        decay = np.exp(dt[t] * a)[:, None, None]
        kept = kept * decay + (dt[t][:, None] * x[t])[:, :, None] * b[t][:, None, :]
        out[t] = (kept * c[t][:, None, :]).sum(axis=-1) + d[:, None] * x[t]
    return out, kept


def softplus(x: F64) -> F64:
    """log(1 + exp(x)), without overflow."""
    positive: F64 = np.logaddexp(0.0, x)
    return positive


@dataclass(frozen=True)
class Mamba2Mixer(Part):
    """The layer around it: one projection into gate, convolved inputs and steps, then a gated norm by groups.

    `into` gives the gate, then what is convolved (x, then b and c of all groups), then a step a head. A step is
    softplus(step + `name`.dt_bias) within `limits`; a is -exp(`name`.A_log), d is `name`.D, all (heads,). The output is
    gated, then normed within each group of channels, with `name`.norm.weight.
    """

    name: str
    into: Linear
    convolution: Convolution
    out: Linear
    heads: int
    width: int
    groups: int
    state_size: int
    eps: float
    limits: tuple[float, float]

    def shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.name}.{part}": (self.heads,) for part in ("A_log", "D", "dt_bias")}
        shapes[f"{self.name}.norm.weight"] = (self.heads * self.width,)
        for part in (self.into, self.convolution, self.out):
            shapes |= part.shapes()
        return shapes

    def ends(self) -> tuple[str, str]:
        return self.into.name, self.out.name

    def state_elements(self, length: int) -> int:
        """A matrix a head, and the convolution's inputs, whatever the length."""
        return self.heads * self.width * self.state_size + self.convolution.state_elements(length)

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden)."""
        tokens, inner, shared = len(x), self.heads * self.width, self.groups * self.state_size
        gate, convolved, step = np.split(self.into(x, at), [inner, 2 * inner + 2 * shared], axis=-1)
        u, b, c = np.split(self.convolution(convolved, at), [inner, inner + shared], axis=-1)
        dt = np.clip(softplus(step + at.weights[f"{self.name}.dt_bias"]), *self.limits)
        y, kept = state_space(
            u.reshape(tokens, self.heads, self.width),
            dt,
            -np.exp(at.weights[f"{self.name}.A_log"]),
            b.reshape(tokens, self.groups, self.state_size),
            c.reshape(tokens, self.groups, self.state_size),
            at.weights[f"{self.name}.D"],
            at.state.get("states"),
        )
        at.state.replace("states", kept)
        gated = (y.reshape(tokens, inner) * silu(gate)).reshape(tokens, self.groups, -1)
        return self.out(rms(gated, self.eps).reshape(tokens, inner) * at.weights[f"{self.name}.norm.weight"], at)
