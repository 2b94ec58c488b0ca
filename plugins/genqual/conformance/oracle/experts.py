"""Mixtures of experts: a router chooses, the chosen experts are weighed and summed, shared ones see every token.

Sources: Shazeer et al. 2017 (the weighted sum), DeepSeek-AI 2024 (shared experts), Qwen team 2024 (a gate before the
shared expert), OpenAI 2025 (gpt-oss: the clamped, shifted SwiGLU of its experts, all in one tensor a layer).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.core import F64, MARGINS, At, Part, Shape
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import gated, sigmoid
from genqual.conformance.oracle.router import Router, Routing
from genqual.errors import BadInput

Expert = Callable[[int, F64], F64]
"""`expert(index, x)`: expert `index` of `x` (tokens, hidden) -> (tokens, hidden)."""


def mixture(x: F64, routing: Routing, expert: Expert) -> F64:
    """The weighted sum of each token's chosen experts, (tokens, hidden), of `x` (tokens, hidden).

    Only experts that some token chose are called, each once: a checkpoint that is read lazily reads no other.
    """
    out = np.zeros_like(x)
    for index in np.unique(routing.experts):
        tokens, places = np.nonzero(routing.experts == index)  # a token chooses an expert once, so no token repeats
        out[tokens] += routing.weights[tokens, places][:, None] * expert(int(index), x[tokens])
    return out


def clamped_swiglu(gate: F64, up: F64, *, alpha: float, limit: float) -> F64:
    """`(up + 1) * gate * sigmoid(alpha * gate)`, with `gate` cut at `limit` above and `up` on both sides."""
    gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return (up + 1.0) * gate * sigmoid(alpha * gate)


class Experts(Part):
    """All experts of a layer: a `Part` that is called through `mixture`, by the router's choice."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many experts there are."""

    @abstractmethod
    def expert(self, at: At) -> Expert:
        """What computes one of them."""

    def __call__(self, x: F64, at: At) -> F64:
        raise BadInput("experts are computed through the mixture that chooses them, not as a part of their own")


@dataclass(frozen=True)
class SeparateExperts(Experts):
    """Each expert a part with weights of its own."""

    parts: tuple[Part, ...]

    @property
    def count(self) -> int:
        return len(self.parts)

    def shapes(self) -> dict[str, Shape]:
        return {name: shape for part in self.parts for name, shape in part.shapes().items()}

    def expert(self, at: At) -> Expert:
        return lambda index, x: self.parts[index](x, at)


@dataclass(frozen=True)
class ClampedExperts(Experts):
    """gpt-oss: all experts in `name`.gate_up_proj (experts, hidden, 2 * inner) and .down_proj (experts, inner, hidden).

    Columns of the gate and of up take turns; each has a bias.
    """

    name: str
    experts: int
    hidden: int
    inner: int
    alpha: float
    limit: float

    @property
    def count(self) -> int:
        return self.experts

    def shapes(self) -> dict[str, Shape]:
        return {
            f"{self.name}.gate_up_proj": (self.experts, self.hidden, 2 * self.inner),
            f"{self.name}.gate_up_proj_bias": (self.experts, 2 * self.inner),
            f"{self.name}.down_proj": (self.experts, self.inner, self.hidden),
            f"{self.name}.down_proj_bias": (self.experts, self.hidden),
        }

    def expert(self, at: At) -> Expert:
        into, into_bias, out, out_bias = (at.weights[name] for name in self.shapes())

        def one(index: int, x: F64) -> F64:
            both = x @ into[index] + into_bias[index]
            inner = clamped_swiglu(both[:, 0::2], both[:, 1::2], alpha=self.alpha, limit=self.limit)
            return np.asarray(inner @ out[index] + out_bias[index], dtype=np.float64)

        return one


@dataclass(frozen=True)
class Mixture(Part):
    """`gate` gives the logits of `router`; `correction` names its bias (experts,). `shared` sees every token.

    The output of `shared` is multiplied by the logistic of `shared_gate`, where there is one.
    """

    gate: Linear
    router: Router
    experts: Experts
    correction: str | None = None
    shared: Part | None = None
    shared_gate: Linear | None = None

    def __post_init__(self) -> None:
        self.router.check(self.experts.count)

    def shapes(self) -> dict[str, Shape]:
        shapes = self.gate.shapes() | self.experts.shapes()
        if self.correction:
            shapes[self.correction] = (self.experts.count,)
        for part in (self.shared, self.shared_gate):
            shapes |= part.shapes() if part else {}
        return shapes

    def routed(self) -> tuple[int, int, int]:
        """(experts, those that a token reads, weights of one)."""
        return self.experts.count, self.router.top_k, self.experts.active() // self.experts.count

    def active(self) -> int:
        """Parameters that one token's pass reads: of the experts only those that are chosen."""
        count, chosen, each = self.routed()
        return super().active() - each * (count - chosen)

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden); writes the margins of the choice down as `MARGINS`."""
        routing = self.router.route(self.gate(x, at), at.weights[self.correction] if self.correction else None)
        at.note(MARGINS, self._relative(routing.margins, x, at))
        y = mixture(x, routing, self.experts.expert(at))
        if self.shared is None:
            return y
        always = self.shared(x, at)
        return y + (sigmoid(self.shared_gate(x, at)) * always if self.shared_gate else always)

    def _relative(self, margins: F64, x: F64, at: At) -> F64:
        """`margins` over the size of the terms that the router's logits are sums of: what their rounding goes by.

        The logits themselves will not do: where their terms cancel, they are small, and their rounding is not.
        """
        weight = at.weights[f"{self.gate.name}.weight"]
        squares = (x * x) @ (weight * weight).mean(axis=0)
        if self.gate.bias:
            squares = squares + (at.weights[f"{self.gate.name}.bias"] ** 2).mean()
        relative: F64 = np.divide(margins, np.sqrt(squares), out=np.zeros_like(margins), where=squares > 0)
        return relative


def separate(name: str, count: int, inner: int, hidden: int, activation: str) -> SeparateExperts:
    """`count` gated experts `name`.0, `name`.1, ... with Llama's names of their weights."""
    return SeparateExperts(tuple(gated(f"{name}.{i}", inner, hidden, activation) for i in range(count)))
