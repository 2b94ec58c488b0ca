"""SHA-256 in hexadecimal: of bytes, of a file, of canonical JSON. The package's one place that computes it.

Ids, keys and references hang on these digests, so none may change. Streams of numbers (SHAKE-128) are where they are
drawn, and a keyed hash is in `records.pseudonyms`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import rfc8785

Data: TypeAlias = bytes | bytearray | memoryview


def of_bytes(*parts: Data) -> str:
    """Of `parts`, one behind the other."""
    return of_parts(parts)


def of_parts(parts: Iterable[Data]) -> str:
    """The same of parts that come one at a time, so that they need not fit in memory together."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def of_text(text: str) -> str:
    """Of `text` in UTF-8."""
    return of_parts([text.encode()])


def of_file(path: Path) -> str:
    """Of the content of a file, read in pieces. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """Of the canonical bytes of plain data. Raises ValueError as `canonical` does."""
    return of_parts([canonical(value)])


def canonical(value: Any) -> bytes:
    """The one UTF-8 form of `value` (RFC 8785), whatever the order of its keys.

    Raises ValueError on what JSON cannot hold: NaN, an integer beyond 2**53 - 1, a key that is not a string.
    """
    return bytes(rfc8785.dumps(value))


def stamp(file: Path) -> tuple[int, int, int, int]:
    """What changes when a file's content does: its size, both of its times, its inode. Raises OSError.

    Archives, images and `rsync -t` set the time of the content. That of the last change of any kind cannot be set, and
    a file that is put in another's place has another inode.
    """
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
