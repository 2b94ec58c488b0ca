"""A GGUF file: facts of its header, and its weights by transformers' names, dequantised when asked for. No torch.

Weights of the architectures in `ggufnames`: for others the way llama.cpp arranges a matrix is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.errors import BadInput, pip_install
from genqual.models import ggufnames

_ROTARY_FACTORS: Final = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


class _Found(Exception):
    """The field that was looked for: what follows it in the header need not be read."""


def architecture(file: Path) -> str:
    """`general.architecture`: "llama", "bloom". Raises BadInput when the file is not GGUF, torn, or does not say."""
    found = fact(file, "general.architecture")
    if not isinstance(found, str):
        raise BadInput(f"{file}: no general.architecture in its GGUF header; convert it again")
    return found


def fact(file: Path, key: str) -> Any:
    """What the header has under `key`, None when it has no such key. Raises BadInput as `opened` does.

    The reader of gguf makes two arrays of each token of a vocabulary: 8.7 s of CPU time and 570 MiB for 128,000 tokens
    and 280,000 merges. So it is stopped at the key, which for the architecture is the first one.
    """
    try:
        opened(file, until=key)
    except _Found as found:
        return found.args[0]
    return None


class GgufTensors(Mapping[str, NDArray[np.float32]]):
    """Each weight as transformers names and arranges it, float32.

    Raises BadInput where the package gguf is missing, for another architecture, for a tensor that is not known and for
    a quantisation that gguf cannot undo.
    """

    def __init__(self, file: Path) -> None:
        reader, self._gguf = opened(file)
        self._file, self._architecture = file, str(required(reader, "general.architecture", file))
        try:
            ggufnames.arrangement(self._architecture)
            stored = [tensor for tensor in reader.tensors if tensor.name not in ggufnames.NO_WEIGHTS]
            self._tensors = {ggufnames.transformers_name(one.name, self._architecture): one for one in stored}
        except BadInput as error:
            raise BadInput(f"{file}: {error}") from error
        self._heads = int(required(reader, f"{self._architecture}.attention.head_count", file))
        field = reader.fields.get(f"{self._architecture}.attention.head_count_kv")
        self._key_heads = self._heads if field is None else int(field.contents())
        self._last: tuple[str, NDArray[np.float32]] | None = None

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        tensor = self._tensors[name]
        if self._last is None or self._last[0] != name:
            self._last = None  # not two at a time
            try:
                values = self._gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                kind = tensor.tensor_type.name
                raise BadInput(f"{self._file}: {tensor.name} is {kind}, which gguf cannot undo") from error
            arranged = ggufnames.arranged(name, values, self._architecture, self._heads, self._key_heads)
            self._last = name, arranged
        return self._last[1]

    def rows(self, name: str, shape: tuple[int, ...], start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` of a weight. Raises BadInput when it is not of `shape`."""
        if self.shape(name) != shape:
            raise BadInput(f"{name} has shape {self.shape(name)}, the configuration wants {shape}")
        return self[name][start:stop]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, read off the header alone: GGUF names the innermost dimension first."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def scaled_rotary(file: Path) -> str:
    """How the file scales its rotary angles, "rope.scaling.type yarn" or "rope_freqs.weight"; "" where it does not.

    llama.cpp writes Llama 3's scaling as frequencies and every other as facts of the header. Raises BadInput where the
    file cannot be read.
    """
    reader, _ = opened(file)
    return scaling_of(reader)


def scaling_of(reader: Any) -> str:
    """As `scaled_rotary`, of an open file."""
    for key, field in reader.fields.items():
        if key.endswith(".rope.scaling.type") and field.contents() != "none":
            return f"rope.scaling.type {field.contents()}"
        if key.endswith(".rope.scale_linear") and field.contents() != 1.0:  # as it was called at first
            return f"rope.scale_linear {field.contents()}"
    for tensor in reader.tensors:
        if tensor.name in _ROTARY_FACTORS and bool((tensor.data != 1.0).any()):
            return str(tensor.name)
    return ""


def opened(file: Path, until: str = "") -> tuple[Any, Any]:
    """A reader of the file, and the package gguf. Raises BadInput where either is missing or torn.

    Raises _Found at the field `until`.
    """
    try:
        import gguf
    except ImportError as error:
        raise BadInput(f"{file}: reading GGUF needs the package gguf ({error}); {pip_install('gguf')}") from error

    class Reader(gguf.GGUFReader):  # type: ignore[misc]
        data: NDArray[np.uint8]

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **more: Any) -> Any:
            if type(self.data) is not np.ndarray:  # each slice of a memmap is one again: half of the header's time
                self.data = self.data.view(np.ndarray)
            found = super()._get(offset, dtype, count, *rest, **more)
            if len(found) < count:  # its own takes what is there, and a damaged length has it read nothing for hours
                raise ValueError(f"it ends before byte {offset} + {count} numbers of its header")
            return found

        def _push_field(self, field: Any, *rest: Any, **more: Any) -> Any:
            if field.name == until:
                raise _Found(field.contents())
            return super()._push_field(field, *rest, **more)

    try:
        return Reader(file), gguf
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BadInput(f"{file}: not a whole GGUF file ({error}); download it again") from error


def required(reader: Any, key: str, file: Path) -> Any:
    """What the header says under `key`. Raises BadInput where it says nothing."""
    field = reader.fields.get(key)
    if field is None:
        raise BadInput(f"{file}: its GGUF header has no {key}; convert it again")
    return field.contents()
