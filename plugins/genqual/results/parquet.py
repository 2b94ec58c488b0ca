"""Records as one Parquet file: the columns of the index and the bytes, newest first. Needs pyarrow when it is used.

Newest first, in small row groups: what a comparison wants stands in the first of them, and the rest is not decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from genqual.errors import BadInput
from genqual.results.record import CorruptRecord, FutureRecord, Record
from genqual.results.sinks.base import Query, columns_of
from genqual.results.sinks.retrying import need

MAGIC: Final = b"PAR1"
GROUP: Final = 5_000  # rows a group: what is decoded together

_EXTRA: Final = "genqual[parquet]"


def write(path: Path, records: Iterable[Record]) -> int:
    """Write `records` to `path`, replacing it; how many. They are kept in the order given: give the newest first."""
    rows = ({**columns_of(record), "body": record.to_bytes().decode()} for record in records)
    return write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """As `write`, from rows of the index with their `body`."""
    need("pyarrow", f"writing {path}", _EXTRA)
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(pa)
    count, waiting = 0, iter(rows)
    temporary = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while group := list(islice(waiting, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    temporary.replace(path)
    return count


def read(path: Path, query: Query) -> Iterator[Record]:
    """Verified records that match, oldest first. Raises BadInput on a file that is none of ours, or was altered."""
    need("pyarrow", f"reading {path}", _EXTRA)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = _wanted(file, query)
            found = sorted(_records(path, file, wanted), key=lambda record: (record.created, record.id))
    except (pa.ArrowException, KeyError) as error:
        raise BadInput(f"{path}: no Parquet file of records: {error}") from None
    yield from found


def _wanted(file: Any, query: Query) -> list[int]:
    """The numbers of the rows that match, from the columns of the index alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = sorted({"key", "run", "created", "id", *query.conditions} if query.newest else {"id", *query.conditions})
    table = file.read(columns=names)
    mask = None
    for name, value in query.conditions.items():
        column = pc.fill_null(table[name], "")
        one = pc.starts_with(column, value) if name in query.PREFIXES else pc.equal(column, value)
        mask = one if mask is None else pc.and_(mask, one)
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    if mask is not None:
        table = table.filter(mask)
    if query.newest and table.num_rows:
        keys, runs = (
            table["key"].combine_chunks().dictionary_encode(),
            table["run"].combine_chunks().dictionary_encode(),
        )
        coded = pa.table({"key": keys.indices, "run": runs.indices, "row": table["row"], "created": table["created"]})
        last = coded.group_by("key").aggregate([("created", "max")])
        newest = coded.join(last, keys="key").filter(pc.field("created") == pc.field("created_max"))
        pairs = newest.group_by("key").aggregate([("run", "max")])
        coded = coded.join(pairs, keys="key")
        table = coded.filter(pc.field("run") == pc.field("run_max"))
    return sorted(table["row"].to_pylist())


def _records(path: Path, file: Any, wanted: list[int]) -> Iterator[Record]:
    """The rows asked for, group by group: a group without one is never decoded."""
    first, rows = 0, iter(wanted)
    row = next(rows, None)
    for group in range(file.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        places = []
        while row is not None and row < end:
            places.append(row - first)
            row = next(rows, None)
        if places:
            table = file.read_row_group(group, columns=["id", "body"]).take(places)
            for identifier, body in zip(table["id"].to_pylist(), table["body"].to_pylist(), strict=True):
                yield _verified(path, identifier, body)
        first = end


def _verified(path: Path, identifier: str, body: str) -> Record:
    try:
        record = Record.from_bytes(body.encode())
    except (CorruptRecord, FutureRecord) as error:
        raise BadInput(f"{path}: row {identifier}: {error}") from None
    if record.id != identifier:
        raise BadInput(f"{path}: row {identifier} holds record {record.id}: it was changed after writing")
    return record


def _schema(pa: Any) -> Any:
    texts = ("id", "created", "run", "kind", "key", "device", "class_id", "engine", "model", "dtype")
    more = ("status", "provenance", "host", "commit", "body")
    names = [*texts, "ranks", *more]
    return pa.schema([(name, pa.int32() if name == "ranks" else pa.string()) for name in names])
