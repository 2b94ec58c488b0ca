"""The committed record of launches over time: one gzip file an occasion, one JSON line a launch, never rewritten."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

PLACE: Final = Path(__file__).resolve().parents[3] / "docs" / "evidence" / "gate-over-time"


def append(path: Path, line: dict[str, Any]) -> None:
    """Add one launch, durable before this returns: a gzip member of its own, so what was written is never touched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    member = gzip.compress(json.dumps(line, separators=(",", ":")).encode() + b"\n", mtime=0)
    with path.open("ab") as stream:
        stream.write(member)
        stream.flush()
        os.fsync(stream.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """Every whole line of one occasion, its head first. A member that an interruption cut short is left out."""
    raw, text = path.read_bytes(), b""
    while raw:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(raw)
        except zlib.error as error:
            raise ValueError(f"{path}: damaged after {len(text.splitlines())} lines: {error}") from error
        if not member.eof:
            break
        text, raw = text + part, member.unused_data
    return [json.loads(line) for line in text.splitlines()]


def occasions(place: Path = PLACE) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Head and launches of each occasion, oldest first."""
    for path in sorted(place.rglob("*.jsonl.gz"), key=lambda found: found.name):
        head, *launches = read(path)
        yield head, launches
