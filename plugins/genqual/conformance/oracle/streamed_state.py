"""What a streamed oracle keeps on disk between layers, so that it can be interrupted. Pure but for these files."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from genqual import digest
from genqual.conformance.oracle.core import F64, I64, LayerState
from genqual.errors import BadInput

_VERSION: Final = 3
_STATE: Final = "state.safetensors"
LOCK: Final = "lock"
_OWN: Final = re.compile(rf"(state|layer\d+(\.even|\.odd)?)\.safetensors(\.new)?|{LOCK}")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a run is: `states` (a row's tokens, hidden), one array a row, are what goes into `layer` in pass `turn`.

    `tokens` (rows, steps), 0 where none was chosen yet, of which the first `proven` (rows,) an earlier full pass chose.
    At layer 0 there are no states: they are embedded anew. `margins` are those that routers wrote down in the full pass
    so far, (tokens, layers) a row; none before it, and none without routers.
    """

    turn: int
    layer: int
    tokens: I64
    states: tuple[F64, ...]
    margins: tuple[F64, ...] = ()
    proven: tuple[int, ...] = ()


class StreamState:
    """The files of one run, in `folder`; `key` says of what, and files of another key are refused.

    Each file is replaced whole, and carries a digest of its arrays: one that was torn or altered is refused, never
    computed with. Not flushed to the medium file by file: after a loss of power the digest tells.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = folder, key

    def place(self, rows: int, steps: int) -> Place:
        """Where the run was left; its beginning if there is nothing yet. Raises BadInput on a damaged file."""
        file = self.folder / _STATE
        if not file.exists():
            return Place(0, 0, np.zeros((rows, steps), dtype=np.int64), (), proven=(0,) * rows)
        arrays, said = self._read(file)
        states = tuple(arrays[f"row{row}"] for row in range(rows)) if int(said["layer"]) else ()
        margins = tuple(arrays[f"margins{row}"] for row in range(rows) if f"margins{row}" in arrays)
        proven = tuple(int(count) for count in arrays["proven"])
        return Place(int(said["turn"]), int(said["layer"]), arrays["tokens"], states, margins, proven)

    def keep(self, place: Place) -> None:
        """Write where the run is."""
        arrays: dict[str, NDArray[Any]] = {"tokens": place.tokens, "proven": np.array(place.proven)}
        arrays |= {f"row{row}": states for row, states in enumerate(place.states)}
        arrays |= {f"margins{row}": margins for row, margins in enumerate(place.margins)}
        self._write(self.folder / _STATE, arrays, {"turn": str(place.turn), "layer": str(place.layer)})

    def layer_states(self, layer: int, turn: int, lengths: Sequence[int]) -> list[LayerState]:
        """What `layer` kept of each row after pass `turn`: `lengths` tokens of what grows, the rest whole.

        A run that was interrupted between this file and the state has one token more in what grows; it is cut off.
        Raises BadInput on a file that is damaged, missing, shorter or of another pass.
        """
        file = self._layer_file(layer, turn)
        if not file.exists():
            raise BadInput(f"{file} is missing, {_STATE} beside it needs it: {self._mend()}")
        arrays, said = self._read(file)
        fixed = json.loads(said["fixed"])
        if fixed and said["turn"] != str(turn):
            raise BadInput(f"{file} is of pass {said['turn']}, {_STATE} beside it needs {turn}: {self._mend()}")
        found = []
        for row, length in enumerate(lengths):
            kept = LayerState()
            for name, array in arrays.items():
                of, _, what = name.partition(".")
                if of != f"row{row}":
                    continue
                if what in fixed:
                    kept.replace(what, array)
                    continue
                if array.shape[1] < length:
                    raise BadInput(f"{file} holds {array.shape[1]} tokens of row {row}, not {length}: {self._mend()}")
                kept.extend(what, array[:, :length])
            found.append(kept)
        return found

    def keep_layer_states(self, layer: int, turn: int, rows: Sequence[LayerState]) -> None:
        """Write what `layer` kept of each row after pass `turn`."""
        arrays = {f"row{row}.{name}": array for row, kept in enumerate(rows) for name, array in kept.arrays.items()}
        fixed = sorted({name for kept in rows for name in kept.arrays if name not in kept.grows})
        said = {"turn": str(turn), "fixed": json.dumps(fixed)}
        self._write(self.folder / _name(layer, turn if fixed else None), arrays, said)

    def _layer_file(self, layer: int, turn: int) -> Path:
        """A layer with state of fixed size has two files, a pass its own: such state cannot be cut back by a token."""
        file = self.folder / _name(layer, turn)
        return file if file.exists() else self.folder / _name(layer, None)

    def remove(self) -> None:
        """Take the state away: the run is over. Files that are not of it stay, and so does their folder."""
        for file in self.folder.iterdir():
            if _OWN.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not empty
            self.folder.rmdir()

    def _write(self, file: Path, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, str]) -> None:
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        said = {**said, "version": str(_VERSION), "key": self._key}
        self.folder.mkdir(parents=True, exist_ok=True)
        new = file.with_name(file.name + ".new")
        new.write_bytes(save(whole, {**said, "digest": _digest(whole, said)}))
        new.replace(file)

    def _read(self, file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        try:
            with safe_open(str(file), framework="np") as opened:
                said = dict(opened.metadata() or {})
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - safe_open is no mapping
        except SafetensorError as error:
            raise BadInput(f"{file} cannot be read ({error}): it was cut short or altered; {self._mend()}") from error
        if said.pop("digest", None) != _digest(arrays, said):
            raise BadInput(f"{file} is not what was written: its digest differs; {self._mend()}")
        if said["version"] != str(_VERSION) or said["key"] != self._key:
            raise BadInput(
                f"{file} belongs to another run (other weights, prompts, steps, oracle or NumPy); {self._mend()}"
            )
        return arrays, said

    def _mend(self) -> str:
        files = self.folder / "*.safetensors"
        return f"delete {files} and run the same command again, it begins anew"


def _name(layer: int, turn: int | None) -> str:
    return f"layer{layer:03d}{'' if turn is None else '.even' if turn % 2 == 0 else '.odd'}.safetensors"


def _digest(arrays: Mapping[str, NDArray[Any]], said: Mapping[str, str]) -> str:
    parts: list[bytes | memoryview] = [json.dumps(said, sort_keys=True).encode()]
    for name, array in sorted(arrays.items()):
        parts.append(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        parts.append(np.ascontiguousarray(array).reshape(-1).data)
    return digest.of_parts(parts)
