"""Read and write safetensors without a framework: bf16, f16 and fp8 become float32 exactly. Pure: NumPy only.

The safetensors package cannot hand bf16 to NumPy, and does not say by how much a file is cut short; so reading is ours.
Format: the safetensors specification; eight bytes of header length, a JSON header, the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.dtypes import BY_SAFETENSORS
from genqual.errors import BadInput
from genqual.models.narrow_floats import widened

WIDE: Final[dict[str, np.dtype[Any]]] = {code: np.dtype(one.stored) for code, one in BY_SAFETENSORS.items()}
"""The dtypes that checkpoints without quantisation are published in."""
_NARROW: Final = dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0"), np.dtype("u1"))
_INTEGERS: Final[dict[str, np.dtype[Any]]] = {
    **{"BOOL": np.dtype("u1"), "U8": np.dtype("u1"), "I8": np.dtype("i1"), "U16": np.dtype("<u2")},
    **{"I16": np.dtype("<i2"), "U32": np.dtype("<u4"), "I32": np.dtype("<i4"), "U64": np.dtype("<u8")},
    "I64": np.dtype("<i8"),
}
_STORED: Final[dict[str, np.dtype[Any]]] = {**WIDE, **_NARROW, **_INTEGERS}
_CHUNK: Final = 1 << 24  # bytes read at a time where a tensor is only looked through
_LONGEST_HEADER: Final = 100_000_000  # the format's own limit, bytes
_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: `start` and `stop` are byte positions in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one file by name. Raises BadInput when the file is cut short or is not safetensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > _LONGEST_HEADER:
            raise BadInput(f"{file}: not a safetensors file ({size} bytes, header length {length}); download it again")
        if 8 + length > size:
            raise BadInput(
                f"{file}: cut short: its header alone needs {8 + length} bytes, the file has {size}; download it again"
            )
        raw = stream.read(length)
    try:
        entries = {
            name: _entry(file, 8 + length, item) for name, item in json.loads(raw).items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file}: its safetensors header cannot be read ({error}); download it again") from error
    promised = max((entry.stop for entry in entries.values()), default=8 + length)
    if promised > size:
        raise BadInput(
            f"{file}: cut short: its header promises {promised} bytes, the file has {size}; download it again"
        )
    return entries


def _entry(file: Path, base: int, item: dict[str, object]) -> TensorEntry:
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError(f"an entry is {item!r}")
    start, stop = (base + int(offset) for offset in offsets)
    dims = tuple(int(size) for size in shape)
    known = _STORED.get(dtype)
    if start < base or stop < start or (known and stop - start != int(np.prod(dims)) * known.itemsize):
        raise ValueError(f"{dtype} of shape {dims} cannot lie in bytes {offsets}")
    return TensorEntry(file, dtype, dims, start, stop)


def read(name: str, entry: TensorEntry, rows: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """One tensor as float32, exactly as stored; with `rows` (first, one behind the last) only those are read.

    Raises BadInput on integers, which alone are no weights, and on a file that has changed since its header was read.
    """
    if entry.dtype not in WIDE and entry.dtype not in _NARROW:
        raise BadInput(
            f"{entry.file}: {name} is {entry.dtype}; a weight is {', '.join((*WIDE, *_NARROW))}, unless "
            "quantization_config in config.json says how it is quantised: mend that, or give it an unquantised "
            "checkpoint"
        )
    raw = stored(name, entry, rows)
    if entry.dtype == "BF16":
        wide = raw.astype(np.uint32)
        wide <<= 16  # bf16 is the upper half of float32; in place, because an embedding may be large
        return wide.view(np.float32)
    if entry.dtype in _NARROW:
        return widened(raw, entry.dtype)
    return raw.astype(np.float32, copy=False)


def stored(name: str, entry: TensorEntry, rows: tuple[int, int] | None = None) -> NDArray[Any]:
    """One tensor as it lies in the file: bf16 as its 16 bits, fp8 as its 8. Raises BadInput as `read`, of any dtype."""
    dtype = _STORED.get(entry.dtype)
    if dtype is None:
        raise BadInput(
            f"{entry.file}: {name} is {entry.dtype}, which genqual does not read; known: {', '.join(_STORED)}"
        )
    shape, start = entry.shape, entry.start
    if rows is not None:
        start += rows[0] * int(np.prod(shape[1:])) * dtype.itemsize
        shape = (rows[1] - rows[0], *shape[1:])
    count = int(np.prod(shape))
    try:
        raw = np.fromfile(entry.file, dtype=dtype, count=count, offset=start)
    except OSError as error:
        raise BadInput(f"{entry.file}: {name} cannot be read ({error}); put the file back, or mend the disk") from error
    if raw.size != count:
        raise BadInput(
            f"{entry.file}: {name} ends after {raw.size} of {count} weights: the file was cut short meanwhile"
        )
    return raw.reshape(shape)


def pieces(name: str, entry: TensorEntry) -> Iterator[bytes]:
    """The bytes of one tensor, whatever its dtype is, a part at a time. Raises BadInput as `read` does."""
    try:
        with entry.file.open("rb") as stream:
            stream.seek(entry.start)
            left = entry.stop - entry.start
            while left:
                part = stream.read(min(left, _CHUNK))
                if not part:
                    raise BadInput(f"{entry.file}: {name} ends {left} bytes early: the file was cut short meanwhile")
                left -= len(part)
                yield part
    except OSError as error:
        raise BadInput(f"{entry.file}: {name} cannot be read ({error}); put the file back, or mend the disk") from error


def checkpoint(directory: Path) -> dict[str, TensorEntry]:
    """The tensors of a checkpoint directory, sharded or not. Raises BadInput naming a file that is missing or torn."""
    index = directory / _INDEX
    if (directory / _SINGLE).is_file():
        return header(directory / _SINGLE)
    if not index.is_file():
        pickled = sorted(file.name for file in directory.glob("pytorch_model*.bin"))
        found = f" (it holds {pickled[0]}: genqual opens no pickles, save it as safetensors)" if pickled else ""
        raise BadInput(f"{directory}: neither {_SINGLE} nor {_INDEX} is there{found}")
    try:
        shards = {str(shard) for shard in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(f"{index}: not a safetensors index ({error}); download it again") from error
    found_entries: dict[str, TensorEntry] = {}
    for shard in sorted(shards):
        if Path(shard).name != shard or not (directory / shard).is_file():
            raise BadInput(f"{directory}: {_INDEX} names {shard}, which is not there; download that file")
        found_entries |= header(directory / shard)
    return found_entries


class Tensors(Mapping[str, NDArray[np.float32]]):
    """Tensors read when asked for, so that a model larger than memory can be walked through."""

    def __init__(self, entries: Mapping[str, TensorEntry], stored_names: Mapping[str, str]) -> None:
        """`stored_names` maps the name to show to the name in `entries`."""
        self._entries, self._stored = entries, stored_names

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        place = self._stored[name]
        return read(place, self._entries[place])

    def rows(self, name: str, shape: tuple[int, ...], start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a tensor. Raises BadInput when the tensor is not of `shape`."""
        place = self._stored[name]
        entry = self._entries[place]
        if entry.shape != shape:
            raise BadInput(f"{name} has shape {entry.shape}, the configuration wants {shape}")
        return read(place, entry, (start, stop))

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def write_bf16(file: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write float32 arrays as a bf16 safetensors file. Raises ValueError when bf16 would change a value."""
    with file.open("wb") as stream:
        stream.write(_described("BF16", 2, {name: values.shape for name, values in tensors.items()}))
        for name, values in tensors.items():
            bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
            if (bits & 0xFFFF).any():
                raise ValueError(f"{name} is not exact in bf16")
            stream.write((bits >> 16).astype("<u2").tobytes())


def write_f32(file: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the arrays of `tensors`, of these `shapes`, as float32, one at a time: `tensors` may be lazy."""
    with file.open("wb") as stream:
        stream.write(_described("F32", 4, shapes))
        for name, shape in shapes.items():
            values = tensors[name]
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, {shape} was promised")
            stream.write(np.ascontiguousarray(values, dtype="<f4").tobytes())


def _described(dtype: str, width: int, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """What a file of tensors of one dtype, `width` bytes each number, begins with."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = width * int(np.prod(shape, dtype=np.int64))
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(described, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
