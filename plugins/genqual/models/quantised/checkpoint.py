"""The weights of a quantised checkpoint by transformers' names, each dequantised when it is asked for. NumPy, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from genqual.errors import BadInput
from genqual.models import safetensor
from genqual.models.quantised.base import INPUT_SCALE, Packed, ReadsContent, Scheme, Shape, Tensor, no_zero_points
from genqual.models.quantised.inputs import InputRounding, static_scale
from genqual.models.safetensor import TensorEntry

_FLOATS_OF_8_BITS = ("F8_E4M3", "F8_E5M2", "F8_E8M0")


class Dequantised(Mapping[str, NDArray[np.float32]]):
    """As `safetensor.Tensors`, with what `scheme` packs in place of the tensors that it is packed in.

    The last weight is kept, so that rows of one are read without dequantising it for each.
    """

    def __init__(self, entries: Mapping[str, TensorEntry], stored_names: Mapping[str, str], scheme: Scheme) -> None:
        """`stored_names` maps the names to show to those in `entries`. Raises BadInput as `Scheme.find` does."""
        self._entries, self._scheme = entries, scheme
        shown = {stored: name for name, stored in stored_names.items()}
        if isinstance(scheme, ReadsContent):
            scheme = scheme.having({stored: self._piece(stored) for stored in shown if scheme.wants(stored)})
            self._scheme = scheme
        packed = scheme.find({stored: Tensor(entries[stored].dtype, entries[stored].shape) for stored in shown})
        pieces = {piece for one in packed for piece in one.pieces.values()}
        self._plain = {name: stored for name, stored in stored_names.items() if stored not in pieces}
        # A format names a weight as the checkpoint does, whose names may lack a prefix that others of it show.
        self._packed = {_shown(one, shown): one for one in packed}
        self._last: tuple[str, NDArray[np.float32]] | None = None

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        one = self._packed.get(name)
        if one is None:
            stored = self._plain[name]
            return safetensor.read(stored, self._entries[stored])
        if self._last is None or self._last[0] != name:
            self._last = None  # not two at a time
            pieces = {what: self._piece(stored) for what, stored in one.pieces.items()}
            for what, piece in pieces.items():
                # Scales are few; what is as wide as the weight is narrower than 16 bits.
                wide = self._entries[one.pieces[what]].dtype in safetensor.WIDE and not what.startswith("input_")
                if wide and not np.isfinite(piece).all():
                    raise BadInput(f"{one.pieces[what]} is not finite, so its weight is not, either; download it again")
                if wide and what.endswith(("scale", "scales")) and not piece.any():
                    raise BadInput(f"{one.pieces[what]} is 0 everywhere, and so is its weight; download it again")
            values = self._scheme.dequantise(one, pieces)
            if values.shape != one.shape:
                raise BadInput(
                    f"{name}: dequantised to {values.shape}, its pieces promise {one.shape}; download it again"
                )
            self._last = name, values
        return self._last[1]

    def rows(self, name: str, shape: Shape, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a weight. Raises BadInput when it is not of `shape`."""
        if self.shape(name) != shape:
            raise BadInput(f"{name} has shape {self.shape(name)}, the configuration wants {shape}")
        if name in self._packed:
            return self[name][start:stop]
        stored = self._plain[name]
        return safetensor.read(stored, self._entries[stored], (start, stop))

    def shape(self, name: str) -> Shape:
        """The shape of a weight, read off headers alone."""
        one = self._packed.get(name)
        return self._entries[self._plain[name]].shape if one is None else one.shape

    def inputs(self) -> dict[str, InputRounding]:
        """How what enters each layer is rounded at run time, by module; layers without such a rule are left out.

        Raises BadInput on a static scale that cannot be one, and on zero points of a symmetric grid.
        """
        found = {}
        for name, one in self._packed.items():
            if one.inputs is not None:
                if "input_zero_point" in one.pieces:
                    no_zero_points(one.pieces["input_zero_point"], self._piece(one.pieces["input_zero_point"]))
                scale = self._static_scale(one.pieces[INPUT_SCALE]) if one.inputs.static else 0.0
                found[name.removesuffix(".weight")] = replace(one.inputs, scale=scale)
        return found

    def stored_of_inputs(self) -> frozenset[str]:
        """The stored tensors that `inputs` is read off, which are no part of any weight."""
        packed = self._packed.values()
        return frozenset(name for one in packed for what, name in one.pieces.items() if what.startswith("input_"))

    def _static_scale(self, stored: str) -> float:
        values = self._piece(stored)
        if values.size != 1:
            raise BadInput(f"{stored} has shape {values.shape}: one scale is wanted for all that enters its layer")
        return static_scale(float(values.reshape(())), stored)

    def _piece(self, stored: str) -> NDArray[np.generic]:
        entry = self._entries[stored]
        if entry.dtype in safetensor.WIDE or entry.dtype in _FLOATS_OF_8_BITS:
            return safetensor.read(stored, entry)
        return safetensor.stored(stored, entry)

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._packed

    def __len__(self) -> int:
        return len(self._plain) + len(self._packed)


def _shown(packed: Packed, shown: Mapping[str, str]) -> str:
    """The name to show of a packed weight: with the prefix that its pieces are shown with."""
    stored = next(iter(packed.pieces.values()))
    return shown[stored].removesuffix(stored) + packed.name
