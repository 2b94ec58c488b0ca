"""A signed session: a file whose first line is the envelope and whose other lines are the records. Reads, writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genqual.atomic import write_whole
from genqual.errors import BadInput
from genqual.records.record import CorruptRecord, FutureRecord, Record
from genqual.records.redaction import redact
from genqual.signing.dsse import Envelope
from genqual.signing.manifest import Manifest
from genqual.storage.sinks.base import SinkFailed
from genqual.storage.sources import envelope_in, load


@dataclass(slots=True)
class Session:
    """What was found at a place: records, the envelope if any, and (place, reason) of what is no record."""

    records: list[Record] = field(default_factory=list)
    envelope: Envelope | None = None
    damaged: list[tuple[str, str]] = field(default_factory=list)


def write(path: Path, envelope: Envelope, records: Sequence[Record]) -> None:
    """The file that `genqual verify`, `compare` and `report` read. Raises BadInput where it cannot be written."""
    lines = [envelope.to_bytes(), *(record.to_bytes() for record in records)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, b"\n".join(lines) + b"\n")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None


def read(source: str, envelope: Path | None = None) -> Session:
    """Everything at `source`, damaged parts named instead of raised; `envelope` is a file of its own.

    With an envelope, only the records of its run count. Raises BadInput where there is nothing to read.
    """
    found = Session()
    path = Path(source).expanduser()
    if "://" in source or (not path.exists() and "#" in source):
        _from_sink(source, found)
    elif path.is_dir():
        files = sorted(path.glob("*.json")) or sorted((path / "spool").glob("*.json"))
        for file in files:
            _take(file.name, _bytes(file), found)
    elif _bytes(path)[:16] == b"SQLite format 3\x00":
        _from_sink(source, found)
    else:
        for number, line in enumerate(_bytes(path).splitlines(), start=1):
            _take(f"line {number}", line, found)
    if envelope is not None:
        given = envelope_in(_bytes(envelope).splitlines()[0] if _bytes(envelope) else b"")
        if given is None:
            raise BadInput(f"{envelope}: its first line is no DSSE envelope; `genqual sign` writes one")
        found.envelope = Envelope.from_json(given)
    if not found.records and not found.damaged:
        raise BadInput(f"{redact(source)}: no record there")
    _only_its_run(found)
    return found


def _from_sink(source: str, found: Session) -> None:
    try:
        found.records += load(source)
    except SinkFailed as error:
        found.damaged.append((redact(source), str(error)))


def _take(place: str, data: bytes, found: Session) -> None:
    if not data.strip():
        return
    given = envelope_in(data)
    if given is not None:
        found.envelope = Envelope.from_json(given)
        return
    try:
        found.records.append(Record.from_bytes(data))
    except (CorruptRecord, FutureRecord) as error:
        found.damaged.append((f"{place}{_claimed(data)}", str(error)))


def _claimed(data: bytes) -> str:
    """The id that a damaged record claims, where that much can be read."""
    try:
        claimed: Any = json.loads(data).get("id")
    except (ValueError, AttributeError):
        return ""
    return f", record {str(claimed)[:12]}" if claimed else ""


def _only_its_run(found: Session) -> None:
    if found.envelope is None:
        return
    try:
        run = Manifest.from_bytes(found.envelope.payload).run
    except BadInput:
        return  # `verify` names what is wrong with it
    found.records = [record for record in found.records if record.run == run]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None


def runs(state: Path) -> Iterator[Path]:
    """The manifests that runs left below a state directory, newest last."""
    yield from sorted((state / "manifests").glob("*.json"), key=lambda path: path.stat().st_mtime)
