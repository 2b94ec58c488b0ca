"""What a stored checkpoint does at run time to what enters its linear layers, as it declares it. Pure: no NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from genqual.cases import Json
from genqual.errors import BadInput, Unsupported

GRIDS: Final = ("int8", "e4m3")
SHARED: Final = ("token", "group", "tensor")
PRECISION_OF: Final[Mapping[str, str]] = {"int8": "int8-dynamic", "e4m3": "fp8"}
"""The precision in which a checkpoint whose activations have a grid is judged by what it declares."""


@dataclass(frozen=True, slots=True)
class InputRounding:
    """How the numbers that enter one layer, (..., width), are rounded: to `grid`, times a scale.

    `shared` says what has a scale of its own: each token, each `size` numbers of a token ("group"), or all that enter
    at once ("tensor"). A dynamic scale makes the largest number the grid's largest (127, 448); with `powers` it is the
    next power of two above that. A static one is `scale`, stored beside the layer's weight; what lies beyond the grid
    is clipped. Every grid is symmetric.
    """

    grid: str
    shared: str
    size: int = 0
    powers: bool = False
    static: bool = False
    scale: float = 0.0
    """Of a static one. 0 until it is read off its layer."""

    def __post_init__(self) -> None:
        if self.grid not in GRIDS or self.shared not in SHARED or (self.shared == "group") != (self.size > 0):
            raise ValueError(f"{self.grid}, one scale a {self.shared} of {self.size}: not a rounding")
        if self.static and self.shared != "tensor":
            raise ValueError(f"a static scale is of all that enters a layer, not of each {self.shared}")

    @property
    def precision(self) -> str:
        """The precision that a case declares for it."""
        return PRECISION_OF[self.grid]

    def __str__(self) -> str:
        """`int8, a scale for each token, found at run time`."""
        per = f"each group of {self.size}" if self.size else "each token" if self.shared == "token" else "all of a pass"
        how = "stored with the layer" if self.static else "found at run time"
        return f"{self.grid}, a scale for {per}, {how}{', a power of two' if self.powers else ''}"

    def as_json(self) -> dict[str, Json]:
        """Plain data; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> InputRounding:
        """The inverse of `as_json`. Raises TypeError on unknown fields."""
        return cls(**data)  # type: ignore[arg-type]


def static_scale(value: float, name: str) -> float:
    """`value`, stored as `name`. Raises BadInput unless it can be a scale."""
    if not (math.isfinite(value) and value > 0):
        raise BadInput(f"{name} is {value}: a scale is positive and finite; download it again")
    return value


def why_no_precision(declared: Iterable[InputRounding]) -> str | None:
    """Why a checkpoint that declares `declared` can be judged by it in no precision, or None."""
    found = set(declared)
    grids = sorted({one.grid for one in found})
    if len(grids) > 1:
        return f"some of its layers quantise activations to {grids[0]}, others to {grids[1]}, and no precision is both"
    if any(one.shared == "tensor" and not one.static for one in found):
        return (
            "it quantises activations by one scale for all that enters a layer at once, so that a token is rounded by "
            "what the others of its pass are: right runs of other shapes are too far apart for a tolerance"
        )
    return None


def check_precision(declared: Iterable[InputRounding], precision: str, model: str) -> None:
    """Raises Unsupported unless a checkpoint that declares `declared` is judged by it in `precision`."""
    found = set(declared)
    why = why_no_precision(found)
    if why is not None:
        raise Unsupported(
            f"model {model}: {why}; judge it in bf16, fp16 or fp32 as the model that its weights are, on an engine "
            "that widens them (transformers)"
        )
    for one in found:
        if precision != one.precision:
            raise Unsupported(
                f"model {model}: quantises activations to {one.grid} at run time, which is not {precision}; "
                f"{how_to_judge(one.precision)}"
            )


def how_to_judge(precision: str) -> str:
    """The next step: the precision to declare, and how its tolerance is made."""
    return (
        f"declare it as it is: --dtype {precision}, with a tolerance that `genqual reference DIRECTORY --schemes "
        f"{precision}` makes (with --add, for a reference that is there)"
    )
