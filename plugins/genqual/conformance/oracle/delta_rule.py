"""The gated delta rule in its recurrent form: linear attention that corrects what it remembers. Pure: NumPy.

Source: Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", equation 10. A head's memory S maps keys to values.
Each token lets it fade by alpha = exp(log_decay), then writes the part of its value that S does not yet answer for its
key: S <- alpha (I - beta k k^T) S + beta k v^T, and reads S^T q.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.convolution import Convolution
from genqual.conformance.oracle.core import F64, At, Part, Shape
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.mlp import sigmoid, silu
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.state_space import softplus


def gated_delta_rule(q: F64, k: F64, v: F64, log_decay: F64, beta: F64, state: F64 | None = None) -> tuple[F64, F64]:
    """Outputs (tokens, heads, value width) and the new state (heads, key width, value width).

    `q`, `k` (tokens, key heads, key width), scaled and of unit length as the model wants them; `v` (tokens, heads,
    value width); `log_decay` <= 0 and `beta` (tokens, heads). Key head i serves `heads / key heads` neighbouring heads.
    `state` is None at the start of a sequence. Raises ValueError when the heads do not divide.
    """
    heads, shared = v.shape[1], q.shape[1]
    if heads % shared:
        raise ValueError(f"{heads} value heads over {shared} key heads: not a multiple")
    q, k = (np.repeat(a, heads // shared, axis=1) for a in (q, k))
    memory = np.zeros((heads, k.shape[2], v.shape[2])) if state is None else state
    out = np.empty(v.shape)
    for t in range(len(v)):
        memory = memory * np.exp(log_decay[t])[:, None, None]
        recalled = (memory * k[t][:, :, None]).sum(axis=1)
        wrong = (v[t] - recalled) * beta[t][:, None]
        memory = memory + k[t][:, :, None] * wrong[:, None, :]
        out[t] = (memory * q[t][:, :, None]).sum(axis=1)
    return out, memory


def unit_length(x: F64, eps: float = 1e-6) -> F64:
    """`x` over the square root of its squared length plus `eps`, along the last axis.

    `eps` inside the root, as the checkpoints' training code (flash-linear-attention) has it.
    """
    scaled: F64 = x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
    return scaled


@dataclass(frozen=True)
class GatedDeltaNet(Part):
    """The layer around the rule: projections, a short convolution of queries, keys and values, norm and gate.

    `mixed` gives, of each key head in turn, its query, its key, then the values and then the output gates of the heads
    that it serves; `rates` likewise their `beta` before the logistic and their step before softplus. A head's log
    decay is -exp(`name`.A_log) x softplus(step + `name`.dt_bias), both (heads,). `norm` is over a head's output.
    """

    name: str
    mixed: Linear
    rates: Linear
    convolution: Convolution
    norm: Norm
    out: Linear
    key_heads: int
    heads: int
    key_width: int
    width: int

    def shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.name}.A_log": (self.heads,), f"{self.name}.dt_bias": (self.heads,)}
        for part in (self.mixed, self.rates, self.convolution, self.norm, self.out):
            shapes |= part.shapes()
        return shapes

    def ends(self) -> tuple[str, str]:
        return self.mixed.name, self.out.name

    def state_elements(self, length: int) -> int:
        """A matrix a head, and the convolution's inputs, whatever the length."""
        return self.heads * self.key_width * self.width + self.convolution.state_elements(length)

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden)."""
        tokens, served = len(x), self.heads // self.key_heads
        each = np.cumsum([self.key_width, self.key_width, served * self.width])
        groups = np.split(self.mixed(x, at).reshape(tokens, self.key_heads, -1), each, axis=-1)
        q, k, v, gate = (part.reshape(tokens, -1) for part in groups)
        keys = self.key_heads * self.key_width
        q, k, v = np.split(self.convolution(np.concatenate([q, k, v], axis=-1), at), [keys, 2 * keys], axis=-1)
        q, k = (unit_length(part.reshape(tokens, self.key_heads, self.key_width)) for part in (q, k))
        rates = self.rates(x, at).reshape(tokens, self.key_heads, 2, served)
        beta, step = (rates[:, :, i].reshape(tokens, self.heads) for i in (0, 1))
        decay = -np.exp(at.weights[f"{self.name}.A_log"]) * softplus(step + at.weights[f"{self.name}.dt_bias"])
        values = v.reshape(tokens, self.heads, self.width)
        y, memory = gated_delta_rule(
            q / np.sqrt(self.key_width), k, values, decay, sigmoid(beta), at.state.get("memory")
        )
        at.state.replace("memory", memory)
        y = self.norm(y, at) * silu(gate.reshape(y.shape))
        return self.out(y.reshape(tokens, -1), at)
