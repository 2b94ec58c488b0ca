"""Experts that a checkpoint stores as one tensor a layer, given out one by one by their published names. NumPy only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from genqual.conformance.oracle.core import Shape
from genqual.errors import BadInput

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Stacked:
    """A layout with `X.gate_up_proj` (experts, 2 * inner, hidden: the gate's rows, then up's) and `X.down_proj`.

    `gate`, `up` and `down` are the published names of an expert's weights, as in `X.3.gate_proj.weight`. `renamed`:
    pairs of what the published names have and this layout has in its place.
    """

    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    renamed: tuple[tuple[str, str], ...] = ()

    def __call__(self, weights: Arrays, shapes: Mapping[str, Shape]) -> Arrays:
        """`weights` by the names of `shapes`; themselves where nothing is stacked."""
        found: dict[str, tuple[str, int | None, slice]] = {}
        for name in shapes:
            for published in (name, name.removeprefix("model.")):
                if published in weights:
                    break
                place = self._place(published, shapes[name])
                if place[0] in weights:
                    found[published] = place
                    break
        return Unstacked(weights, found) if found else weights

    def _place(self, name: str, shape: Shape) -> tuple[str, int | None, slice]:
        """Where `name` is stored in this layout: the tensor, the expert, its rows."""
        for old, new in self.renamed:
            name = name.replace(old, new)
        match = re.fullmatch(rf"(.*\.experts)\.(\d+)\.({self.gate}|{self.up}|{self.down})\.weight", name)
        if match is None:
            return name, None, slice(None)
        experts, index, part = match[1], int(match[2]), match[3]
        if part == self.down:
            return f"{experts}.down_proj", index, slice(None)
        start = 0 if part == self.gate else shape[0]
        return f"{experts}.gate_up_proj", index, slice(start, start + shape[0])


class Unstacked(Arrays):
    """`arrays`, with what `places` names (tensor, expert or None, rows) in place of the tensors it lies in.

    The tensor last read is kept, so that the experts of a lazy checkpoint are not read as often as there are experts.
    """

    def __init__(self, arrays: Arrays, places: Mapping[str, tuple[str, int | None, slice]]) -> None:
        self._arrays, self._places = arrays, places
        used = {tensor for tensor, _, _ in places.values()}
        self._names = [*(name for name in arrays if name not in used), *places]
        self._counts: dict[str, int] = {}
        for tensor, index, _ in places.values():
            if index is not None:
                self._counts[tensor] = max(self._counts.get(tensor, 0), index + 1)
        self._last: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._places:
            return self._arrays[name]
        tensor, index, rows = self._places[name]
        if tensor not in self._last:
            self._last = {tensor: self._arrays[tensor]}
        array = self._last[tensor]
        if index is None:
            return array
        if array.ndim != 3 or len(array) != self._counts[tensor]:
            raise BadInput(
                f"{tensor} has shape {array.shape}, the configuration wants {self._counts[tensor]} experts as its "
                f"first of three dimensions; give the oracle the config.json that belongs to these weights"
            )
        part: NDArray[Any] = array[index][rows]
        if tensor.endswith("gate_up_proj") and array.shape[1] != 2 * len(part):
            raise BadInput(f"{tensor} has shape {array.shape}, the configuration wants {2 * len(part)} rows an expert")
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
