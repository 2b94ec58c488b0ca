"""What every format has in common: a section of config.json, and weights that are made of several stored tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.errors import BadInput
from genqual.models.quantised.inputs import InputRounding

F32 = NDArray[np.float32]
Shape = tuple[int, ...]
Arrays = Mapping[str, NDArray[Any]]

SECTION: Final = "quantization_config"
INPUT_SCALE: Final = "input_scale"
"""The piece of a weight that holds the static scale of what enters its layer."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the header of a file says of a stored tensor: its safetensors dtype and shape."""

    dtype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Packed:
    """One weight as a format stores it.

    `pieces` maps what a tensor is to the format ("scale") to its stored name; `shape` is that of the weight, by
    transformers' name `name`; `how` is the format's own, for a weight with rules of its own. `inputs` is how what
    enters the weight's layer is rounded at run time; a static one's scale is the piece INPUT_SCALE.
    """

    name: str
    pieces: Mapping[str, str]
    shape: Shape
    how: Any = None
    inputs: InputRounding | None = None


class Scheme(Protocol):
    """How one checkpoint is quantised: what `quantization_config` says, read by its format."""

    def find(self, stored: Mapping[str, Tensor]) -> Sequence[Packed]:
        """The weights among `stored` that are quantised. Raises BadInput, naming the tensor, on what does not fit."""
        ...

    def dequantise(self, packed: Packed, pieces: Arrays) -> F32:
        """The weight, float32 (`packed.shape`). `pieces` are as `Packed.pieces` names them: floats of 8 bits and
        wider as float32, integers as they are."""
        ...


@runtime_checkable
class ReadsContent(Scheme, Protocol):
    """A scheme that finds weights by the content of some tensors, where headers do not tell their shapes."""

    def wants(self, name: str) -> bool:
        """Whether the content of the stored tensor `name` is needed before `find`."""
        ...

    def having(self, content: Arrays) -> Scheme:
        """The same, with what it `wants`, by stored name."""
        ...


class Section:
    """`quantization_config`, read field by field: what nobody read is refused by name, as it may change the weights."""

    def __init__(self, data: Mapping[str, Json], where: str = SECTION, harmless: Sequence[str] = ()) -> None:
        """`harmless` are fields that cannot change the weights or what is computed with them."""
        self.data, self.where = data, where
        self._seen = {"quant_method", *harmless}

    def integer(self, *names: str, default: int | None = None) -> int:
        """An integer under the first of `names` that is there."""
        value = self._value(names)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"config {self.where}.{names[0]} = {value!r}: an integer is wanted")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._value((name,))
        value = default if value is None else value
        if not isinstance(value, bool):
            raise BadInput(f"config {self.where}.{name} = {value!r}: true or false is wanted")
        return value

    def choice(self, name: str, among: Sequence[str], default: str | None = None) -> str:
        """One of the words `among`, in lower case."""
        value = self._value((name,))
        value = default if value is None else value
        if not isinstance(value, str) or value.lower() not in among:
            raise BadInput(f"config {self.where}.{name} = {value!r}: genqual reads {', '.join(among)} only")
        return value.lower()

    def sizes(self, name: str) -> tuple[int, int] | None:
        """Two positive integers, rows and columns; None where it is not set."""
        value = self._value((name,))
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or any(type(one) is not int or one < 1 for one in value):
            raise BadInput(
                f"config {self.where}.{name} = {value!r}: two positive integers, rows and columns, are wanted"
            )
        return int(str(value[0])), int(str(value[1]))

    def within(self, name: str, harmless: Sequence[str] = ()) -> Section | None:
        """The section under `name`, None where it is not set."""
        value = self._value((name,))
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadInput(f"config {self.where}.{name} = {value!r}: a mapping is wanted")
        return Section(value, f"{self.where}.{name}", harmless)

    def names(self, name: str) -> list[str]:
        """A list of words, empty where it is not set."""
        value = self._value((name,)) or []
        if not isinstance(value, list):
            raise BadInput(f"config {self.where}.{name} = {value!r}: a list is wanted")
        return [str(one) for one in value]

    def unset(self, name: str, why: str) -> None:
        """Raises BadInput, with `why`, where `name` is set to anything."""
        value = self._value((name,))
        if value not in (None, False, "", [], {}):
            said = f", where {_shortened(value)} is set," if isinstance(value, dict) else f" = {_shortened(value)}:"
            raise BadInput(f"config {self.where}.{name}{said} {why}")

    def finish(self) -> None:
        """Raises BadInput on fields that nobody read."""
        left = {key: value for key, value in self.data.items() if key not in self._seen and value not in (None, [], {})}
        if left:
            said = ", ".join(f"{key} = {value!r}"[:80] for key, value in sorted(left.items()))
            raise BadInput(
                f"config {self.where}: {said}: genqual does not know these fields, so it cannot say that they leave "
                "the weights as they are; remove them where the engines under test ignore them"
            )

    def _value(self, names: Sequence[str]) -> Json:
        self._seen.update(names)
        return next((self.data[name] for name in names if self.data.get(name) is not None), None)


def _shortened(value: Json) -> str:
    """`value` in a few words: of a mapping the names of its fields."""
    said = ", ".join(value) if isinstance(value, dict) else str(value)
    return said if len(said) <= 120 else f"{said[:116]} ..."


AT_RUN_TIME: Final = (
    "activations are quantised at run time in a way that genqual does not emulate, so that no tolerance can be made; "
    "give it a checkpoint that quantises weights only, or the one that this was made from"
)


def packed_modules(stored: Mapping[str, Tensor], format_name: str) -> Iterator[tuple[str, Tensor, dict[str, str]]]:
    """Each module with packed integers, its `qweight`, and the names of that, its zero points and its scales.

    Raises BadInput where zero points or scales are missing.
    """
    for name, tensor in stored.items():
        module, _, last = name.rpartition(".")
        if last != "qweight":
            continue
        pieces = {one: f"{module}.{one}" for one in ("qweight", "qzeros", "scales")}
        for piece in pieces.values():
            if piece not in stored:
                raise BadInput(f"{name} without {piece} beside it: not a whole {format_name} weight; download it again")
        yield module, tensor, pieces


def fits(packed: str, found: Shape, wanted: Shape) -> None:
    """Raises BadInput, naming the tensor `packed`, unless it has the shape that its neighbours and the format want."""
    if found != wanted:
        raise BadInput(f"{packed} has shape {found}, its format and its neighbours want {wanted}; download it again")


def no_zero_points(name: str, stored: NDArray[Any]) -> None:
    """Raises BadInput, naming the tensor, where a symmetric grid is stored with zero points other than 0."""
    if np.any(stored):
        raise BadInput(
            f"{name} is not 0, and config.json calls its grid symmetric: loaders disagree whether it counts; mend "
            "`symmetric`, or download it again"
        )
