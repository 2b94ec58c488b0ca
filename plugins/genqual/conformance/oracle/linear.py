"""A linear layer of a checkpoint, with or without a bias, stored either way round."""

from __future__ import annotations

from dataclasses import dataclass

from genqual.conformance.oracle.core import F64, At, Part, Shape


@dataclass(frozen=True)
class Linear(Part):
    """`name`.weight (out, in), or (in, out) when `transposed` (GPT-2's Conv1D); `name`.bias (out,) when `bias`."""

    name: str
    out_width: int
    in_width: int
    bias: bool = False
    transposed: bool = False

    def shapes(self) -> dict[str, Shape]:
        shape = (self.out_width, self.in_width)
        shapes: dict[str, Shape] = {f"{self.name}.weight": shape[::-1] if self.transposed else shape}
        return shapes | ({f"{self.name}.bias": (self.out_width,)} if self.bias else {})

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, in) -> (tokens, out)."""
        weight = at.weights.matrix(f"{self.name}.weight")
        y: F64 = x @ (weight if self.transposed else weight.T)
        return y + at.weights[f"{self.name}.bias"] if self.bias else y
