"""Short causal convolution over the sequence, channel by channel, with the state that decoding keeps. Pure: NumPy.

Source: Fu et al. 2023 (H3), the short convolution of Mamba (Gu and Dao 2023): each channel has its own taps, an output
sees its own input and the `width - 1` inputs before it, and before the first token the inputs are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from genqual.conformance.oracle.core import F64, At, Part, Shape


def causal_convolution(x: F64, taps: F64, bias: F64 | None = None, before: F64 | None = None) -> tuple[F64, F64]:
    """Convolve `x` (tokens, channels) with `taps` (channels, width): outputs (tokens, channels), and the new state.

    The last tap meets the token itself. The state is the last `width - 1` inputs (width - 1, channels), given as
    `before` with the next tokens; None at the start of a sequence. Raises ValueError on shapes that do not fit.
    """
    channels, width = taps.shape
    if before is None:
        before = np.zeros((width - 1, channels))
    if x.shape[1:] != (channels,) or before.shape != (width - 1, channels):
        raise ValueError(f"inputs {x.shape} after {before.shape}: taps {taps.shape} want {channels} channels")
    seen = np.concatenate([before, x])
    out = np.zeros(x.shape)
    for tap in range(width):
        out += seen[tap : tap + len(x)] * taps[:, tap]
    if bias is not None:
        out += bias
    return out, seen[len(x) :]


@dataclass(frozen=True)
class Convolution(Part):
    """`name`.weight (channels, 1, width), `name`.bias (channels,) when `bias`, then `activation` where there is one."""

    name: str
    channels: int
    width: int
    bias: bool = False
    activation: Callable[[F64], F64] | None = None

    def shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {f"{self.name}.weight": (self.channels, 1, self.width)}
        return shapes | ({f"{self.name}.bias": (self.channels,)} if self.bias else {})

    def state_elements(self, length: int) -> int:
        """The inputs that the next token still meets; before there are as many, zeros."""
        del length
        return self.channels * (self.width - 1)

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, channels), of the same shape; the last inputs stay in the layer's state."""
        bias = at.weights[f"{self.name}.bias"] if self.bias else None
        taps = at.weights[f"{self.name}.weight"][:, 0]
        y, window = causal_convolution(x, taps, bias, at.state.get("window"))
        at.state.replace("window", window)
        return self.activation(y) if self.activation else y
