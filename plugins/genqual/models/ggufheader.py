"""Single facts of a GGUF file's header: its architecture, whether prompts begin with a token. Pure: standard library.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Strings are 64-bit length and bytes, little endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from genqual.errors import BadInput

_BOOL: Final = 7
_STRING: Final = 8
_ARRAY: Final = 9
_WIDTHS: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of each scalar type
_LONGEST_STRING: Final = 1 << 24  # chat templates are long; longer than this is a torn length


def architecture(file: Path) -> str:
    """`general.architecture`: "llama", "bloom". Raises BadInput when the file is not GGUF, torn, or does not say."""
    found = fact(file, "general.architecture")
    if not isinstance(found, str):
        raise BadInput(f"{file}: no general.architecture in its GGUF header; convert it again")
    return found


def fact(file: Path, key: str) -> str | bool | None:
    """The string or boolean under `key`, None when there is none. Raises BadInput on a file not GGUF or torn."""
    with file.open("rb") as stream:
        try:
            return _find(stream, key)
        except (struct.error, ValueError, KeyError) as error:
            raise BadInput(f"{file}: not a whole GGUF file ({error}); download it again") from error


def _find(stream: BinaryIO, wanted: str) -> str | bool | None:
    magic, version, _tensors, facts = struct.unpack("<4sIQQ", stream.read(24))
    if magic != b"GGUF":
        raise ValueError(f"it starts with {magic!r}, not with b'GGUF'")
    if version < 2:
        raise ValueError(f"version {version} is older than 2")
    for _ in range(facts):
        key = _string(stream)
        (kind,) = struct.unpack("<I", stream.read(4))
        if key == wanted and kind == _STRING:
            return _string(stream)
        if key == wanted and kind == _BOOL:
            return stream.read(1) == b"\x01"
        _skip(stream, kind)
    return None


def _string(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    raw = stream.read(length) if length < _LONGEST_STRING else b""
    if len(raw) != length:
        raise ValueError(f"a string of {length} bytes does not fit")
    return raw.decode()


def _skip(stream: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _string(stream)
    elif kind == _ARRAY:
        inner, count = struct.unpack("<IQ", stream.read(12))
        if inner in _WIDTHS:
            stream.seek(count * _WIDTHS[inner], 1)
        else:
            for _ in range(count):
                _skip(stream, inner)
    else:
        stream.seek(_WIDTHS[kind], 1)
