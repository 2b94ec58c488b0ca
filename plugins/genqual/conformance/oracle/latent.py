"""Multi-head latent attention: what is cached is one compressed vector a token. NumPy float64 only.

Source: DeepSeek-AI 2024 (DeepSeek-V2, section 2.1): keys and values of all heads are expanded from a shared latent, the
rotary part of the key is one for all heads, and queries may be expanded from a latent of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.attention import attend, split
from genqual.conformance.oracle.core import F64, At, Part, Shape
from genqual.conformance.oracle.linear import Linear
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.rotary import Rotary


def expand(latent: F64, rotary: F64, projection: F64, *, heads: int, key_width: int) -> tuple[F64, F64]:
    """Keys (heads, tokens, key_width + rotary width) and values (heads, tokens, value width) of all cached tokens.

    `latent` (tokens, rank) is normed already, `rotary` (1, tokens, rotary width) rotated already; `projection`
    (heads * (key_width + value width), rank) holds for each head its rows of the key, then those of the value.
    """
    both = (latent @ projection.T).reshape(len(latent), heads, -1).transpose(1, 0, 2)
    shared = np.broadcast_to(rotary, (heads, *rotary.shape[1:]))
    return np.concatenate([both[..., :key_width], shared], axis=-1), both[..., key_width:]


@dataclass(frozen=True)
class LatentQuery(Part):
    """Queries from a latent of their own: down, norm, up."""

    down: Linear
    norm: Norm
    up: Linear

    def shapes(self) -> dict[str, Shape]:
        return self.down.shapes() | self.norm.shapes() | self.up.shapes()

    def __call__(self, x: F64, at: At) -> F64:
        return self.up(self.norm(self.down(x, at), at), at)


@dataclass(frozen=True)
class LatentAttention(Part):
    """`down` gives a latent of `rank` and the rotary part of the key; `up` expands keys and values of all heads.

    A head's query and key are `key_width` plain numbers, then `rotary_width` rotated ones.
    """

    query: Linear | LatentQuery
    down: Linear
    norm: Norm
    up: Linear
    out: Linear
    heads: int
    rank: int
    key_width: int
    rotary_width: int
    rotary: Rotary
    scale: float

    def shapes(self) -> dict[str, Shape]:
        parts = (self.query, self.down, self.norm, self.up, self.out)
        return {name: shape for part in parts for name, shape in part.shapes().items()}

    def state_elements(self, length: int) -> int:
        """The latent and the rotary key of every token."""
        return (self.rank + self.rotary_width) * length

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> (tokens, hidden)."""
        q = split(self.query(x, at), self.key_width + self.rotary_width)
        turned = self.rotary(q[..., self.key_width :], at.first)
        compressed = self.down(x, at)
        latent = at.state.extend("latent", self.norm(compressed[:, : self.rank], at)[None])
        shared = at.state.extend("rotary", self.rotary(compressed[None, :, self.rank :], at.first))
        keys, values = expand(
            latent[0], shared, at.weights[f"{self.up.name}.weight"], heads=self.heads, key_width=self.key_width
        )
        q = np.concatenate([q[..., : self.key_width], turned], axis=-1)
        return self.out(attend(q, keys, values, first=at.first, scale=self.scale), at)
