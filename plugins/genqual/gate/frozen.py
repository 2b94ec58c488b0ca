"""The frozen step: a plain-torch Llama over its own hash-built weights, a clock made of work. In ranks only.

It never changes, so whatever slows it slows the host: its bytes are hashed into every baseline, and an edit here, a
comment included, makes every committed baseline inconclusive until it is measured anew. Imports nothing of genqual.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Frozen:
    """`layers` Llama layers of `hidden` channels; no embedding and no head. Rank-local: nothing is communicated.

    Weights are exact in bf16, and held in `dtype`, in which the step is computed: where a processor has no bf16
    kernels, a bf16 step is no clock for an fp32 candidate.
    """

    def __init__(self, hidden: int, layers: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.hidden, self.dtype, self.device = hidden, dtype, device
        self.heads, self.kv_heads = hidden // 64, max(1, hidden // 128)
        inner, narrow = hidden * 11 // 4 // 64 * 64, self.kv_heads * 64
        shapes = {
            "q": (hidden, hidden),
            "k": (narrow, hidden),
            "v": (narrow, hidden),
            "o": (hidden, hidden),
            "gate": (inner, hidden),
            "up": (inner, hidden),
            "down": (hidden, inner),
        }
        self.layers = [
            {name: self._weight(f"{index}.{name}", shape) for name, shape in shapes.items()} for index in range(layers)
        ]
        self.unit_weight = self._weight("unit", (hidden, hidden))

    def _weight(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Odd integers of SHAKE-128 times a power of two: exact in bf16, and the same on every machine."""
        stream = bytearray(hashlib.shake_128(f"genqual/frozen/{name}".encode()).digest(math.prod(shape)))
        raw = torch.frombuffer(stream, dtype=torch.uint8).to(torch.float32) * 2 - 255
        scale = 2.0 ** round(math.log2(1 / (148 * math.sqrt(shape[-1]))))
        return (raw * scale).reshape(shape).to(self.dtype).to(self.device)

    def decode(self, rows: int, context: int) -> Step:
        """The step of `rows` rows that each attend to `context` tokens before them."""
        return Step(self, rows, 1, context)

    def prefill(self, rows: int, length: int) -> Step:
        """The pass of `rows` prompts of `length` tokens."""
        return Step(self, rows, length, 0)

    def unit(self) -> None:
        """A little work, much less than a step: what a deliberate slowdown is made of."""
        linear(self.unit_weight[:8], self.unit_weight)


class Step:
    """One forward pass with the same input every time; calling it runs it."""

    def __init__(self, frozen: Frozen, rows: int, length: int, context: int) -> None:
        self._frozen = frozen
        self._shape = (rows, length)
        self._x = frozen._weight(f"x.{rows}.{length}", (rows, length, frozen.hidden)) * 8
        past = (rows, frozen.kv_heads, context + length, 64)
        self._caches = [
            tuple(frozen._weight(f"cache.{index}.{name}", past) for name in "kv")
            for index in range(len(frozen.layers))
        ]  # fmt: skip
        angle = torch.arange(context, context + length, device=frozen.device, dtype=torch.float32)[:, None]
        angle = angle * 10000.0 ** (-torch.arange(0, 64, 2, device=frozen.device, dtype=torch.float32) / 64)
        both = torch.cat([angle, angle], dim=-1)
        self._cos, self._sin = both.cos().to(frozen.dtype), both.sin().to(frozen.dtype)
        self._ones = torch.ones(frozen.hidden, dtype=frozen.dtype, device=frozen.device)

    def __call__(self) -> float:
        """Run the pass; its mean comes back, so that the device has to finish."""
        frozen, x = self._frozen, self._x
        rows, length = self._shape
        with torch.no_grad():
            for layer, (keys, values) in zip(frozen.layers, self._caches, strict=True):
                normed = self._norm(x)
                q = linear(normed, layer["q"]).view(rows, length, frozen.heads, 64).transpose(1, 2)
                k = linear(normed, layer["k"]).view(rows, length, frozen.kv_heads, 64).transpose(1, 2)
                v = linear(normed, layer["v"]).view(rows, length, frozen.kv_heads, 64).transpose(1, 2)
                keys[:, :, -length:] = self._rotate(k)
                values[:, :, -length:] = v
                groups = frozen.heads // frozen.kv_heads
                mixed = scaled_dot_product_attention(
                    self._rotate(q),
                    keys.repeat_interleave(groups, dim=1),
                    values.repeat_interleave(groups, dim=1),
                    is_causal=length > 1,
                )
                x = x + linear(mixed.transpose(1, 2).reshape(rows, length, frozen.hidden), layer["o"])
                normed = self._norm(x)
                x = x + linear(silu(linear(normed, layer["gate"])) * linear(normed, layer["up"]), layer["down"])
            return float(x.float().mean())

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return self._ones * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype)

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x[..., :32], x[..., 32:]
        return x * self._cos + torch.cat([-right, left], dim=-1) * self._sin
