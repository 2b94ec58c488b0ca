"""Read the records that a person names: a database, a directory, a file, with a selector behind #. Changes nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from genqual.errors import BadInput
from genqual.records.record import CorruptRecord, FutureRecord, Record
from genqual.records.redaction import redact
from genqual.storage import parquet
from genqual.storage.sinks.base import Query
from genqual.storage.sinks.base import newest as newest_of
from genqual.storage.sinks.registry import open_sink

FORMS: Final = (
    "a database (results.db, sqlite:///results.db), a directory of records (.genqual/spool) or a file of records"
    " (.json, .jsonl, .parquet, a signed session), each with an optional selector: results.db#run=3f2a or"
    " results.db#class=NAME&engine=NAME"
)

_SELECTOR = re.compile(r"(.*)#(\w+=[^#&]*(?:&\w+=[^#&]*)*)", re.DOTALL)
_NAMES: Final = {f.name: f.name for f in fields(Query) if f.name != "newest"} | {"class": "class_id", "node": "host"}
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"


def load(spec: str, *, newest: bool = False) -> list[Record]:
    """The records that `spec` names, verified, oldest first, each once. Raises BadInput or SinkFailed, never empty.

    `newest`: of each content key only the run that recorded it last, which a database finds without reading the rest.
    """
    place, query = _parsed(spec)
    query = replace(query, newest=newest)
    found = {record.id: record for record in _read(place, query)}
    if not found:
        raise BadInput(f"{redact(spec)}: {_why_empty(place, query)}")
    return sorted(found.values(), key=lambda record: (record.created, record.id))


def _parsed(spec: str) -> tuple[str, Query]:
    match = _SELECTOR.fullmatch(spec)
    if match is None:
        return spec, Query()
    conditions: dict[str, Any] = {}
    for condition in match[2].split("&"):
        name, _, value = condition.partition("=")
        if name not in _NAMES:
            raise BadInput(f"{redact(spec)}: no selector {name!r}; there are {', '.join(sorted(_NAMES))}")
        conditions[_NAMES[name]] = value
    return match[1], Query(**conditions)


def _read(place: str, query: Query) -> Iterator[Record]:
    if "://" in place:
        sink = open_sink(place)
        try:
            yield from sink.read(query)
        finally:
            sink.close()
        return
    path = Path(place).expanduser()
    try:
        yield from _from_path(path, query)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}. Give {FORMS}") from None


def _from_path(path: Path, query: Query) -> Iterator[Record]:
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(len(_SQLITE_MAGIC))
        if start == _SQLITE_MAGIC:
            yield from _read(f"sqlite:///{path.absolute()}", query)
            return
        if start.startswith(parquet.MAGIC):
            yield from parquet.read(path, query)
            return
    found = filter(query.matches, _from_files(path))
    yield from newest_of(found) if query.newest else found


def _from_files(path: Path) -> Iterator[Record]:
    if not path.is_dir():
        yield from _from_bytes(path, path.read_bytes())
        return
    for file in sorted(path.glob("*.json")) or sorted((path / "spool").glob("*.json")):
        yield from _from_bytes(file, file.read_bytes())


def _from_bytes(path: Path, data: bytes) -> Iterator[Record]:
    """One record, or one a line."""
    lines = [data] if data.lstrip()[:2] in (b"{\n", b"{\r") else data.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and envelope_in(line) is not None):
            continue
        try:
            yield Record.from_bytes(line)
        except FutureRecord as error:
            raise BadInput(f"{path}, line {number}: {error}") from None
        except CorruptRecord as error:
            raise BadInput(
                f"{path}, line {number}: {error}. Take the file away (`genqual push` quarantines damaged files of its"
                f" spool), or give {FORMS}"
            ) from None


def envelope_in(line: bytes) -> dict[str, Any] | None:
    """The DSSE envelope that a signed session starts with, as JSON; None where `line` is none."""
    if b'"payloadType"' not in line:
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "payloadType" in found and "schema" not in found else None


def _why_empty(place: str, query: Query) -> str:
    everything = list(_read(place, Query()))
    if not everything:
        return f"no record there. Give {FORMS}"
    wanted = ", ".join(f"{name}={value}" for name, value in query.conditions.items())
    counted = {"runs": Counter(r.run for r in everything), "classes": Counter(r.system.class_id for r in everything)}
    if query.host is not None:
        counted["nodes"] = Counter(r.system.host for r in everything if r.system.host)
    if query.commit is not None:
        counted["commits"] = Counter(r.software.commit for r in everything if r.software.commit)
    held = "; ".join(
        f"{what}: {', '.join(name for name, _ in counts.most_common(8)) or 'none is recorded'}"
        for what, counts in counted.items()
    )
    return f"none of its {len(everything)} records has {wanted}; it holds {held}"
