"""Records as one Parquet file: the columns of the index and the bytes, newest first. Needs pyarrow when it is used.

Newest first, in small row groups: what a comparison wants stands in the first of them, and the rest is not decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from genqual.atomic import replacing
from genqual.errors import BadInput
from genqual.records.record import CorruptRecord, FutureRecord, Record
from genqual.storage.sinks.base import Query, columns_of
from genqual.storage.sinks.retrying import need

if TYPE_CHECKING:  # both are imported by the functions that a file of this form calls
    import numpy as np
    from numpy.typing import NDArray

MAGIC: Final = b"PAR1"
GROUP: Final = 5_000  # rows a group: what is decoded together

_WORDS: Final = ["key", "run", "created", "kind", "device", "class_id", "engine", "model", "dtype", "host", "commit"]
"""Columns of few different words among many rows: read as codes, a million of them take milliseconds."""

_Coded: TypeAlias = "tuple[NDArray[np.int64], Any]"

_EXTRA: Final = "parquet"


def write(path: Path, records: Iterable[Record]) -> int:
    """Write `records` to `path`, replacing it; how many. They are kept in the order given: give the newest first."""
    rows = ({**columns_of(record), "body": record.to_bytes().decode()} for record in records)
    return write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """As `write`, from rows of the index with their `body`."""
    need("pyarrow", f"writing {path}", extra=_EXTRA)
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(pa)
    count, waiting = 0, iter(rows)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while group := list(islice(waiting, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def read(path: Path, query: Query) -> Iterator[Record]:
    """Verified records that match, oldest first. Raises BadInput on a file that is none of ours, or was altered."""
    need("pyarrow", f"reading {path}", extra=_EXTRA)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, read_dictionary=_WORDS) as file:
            wanted = _wanted(file, query)
            found = sorted(_records(path, file, wanted), key=lambda record: (record.created, record.id))
    except (pa.ArrowException, KeyError) as error:
        raise BadInput(f"{path}: no Parquet file of records: {error}") from None
    yield from found


def _wanted(file: Any, query: Query) -> list[int]:
    """The numbers of the rows that match, from the columns of the index alone."""
    import numpy as np
    import pyarrow.compute as pc

    rows = np.arange(file.metadata.num_rows)
    names = sorted({*query.conditions, *(("key", "run", "created") if query.newest else ())})
    if not names:
        return [int(row) for row in rows]
    table = file.read(columns=names).unify_dictionaries()
    for name, value in query.conditions.items():
        codes, words = _codes(table[name])
        column = pc.fill_null(words, "")
        fits = pc.starts_with(column, value) if name in query.PREFIXES else pc.equal(column, value)
        rows = rows[fits.to_numpy(zero_copy_only=False)[codes[rows]]]
    if query.newest and len(rows):
        rows = rows[_newest(_codes(table["key"]), _codes(table["created"]), _codes(table["run"]), rows)]
    return [int(row) for row in rows]


def _newest(key: _Coded, created: _Coded, run: _Coded, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `rows` are of the run that their key was last recorded in; each column is (codes, words).

    Of two runs in the same microsecond, the greater name.
    """
    import numpy as np

    keys = key[0][rows]
    moments, runs = (_ranks(words)[codes[rows]] for codes, words in (created, run))
    last = np.full(len(key[1]), -1)
    np.maximum.at(last, keys, moments)
    chosen = np.full(len(key[1]), -1)
    latest = moments == last[keys]
    np.maximum.at(chosen, keys[latest], runs[latest])
    found: NDArray[np.bool_] = runs == chosen[keys]
    return found


def _codes(column: Any) -> _Coded:
    """A column of words as codes and the words that they stand for; a null has the code of a word that is null."""
    import numpy as np
    import pyarrow as pa

    whole = column.combine_chunks()
    whole = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    words = whole.dictionary
    codes = whole.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, pa.concat_arrays([words, pa.nulls(1, words.type)])


def _ranks(words: Any) -> NDArray[np.int64]:
    """The place of each word in their order."""
    import numpy as np

    ranks = np.empty(len(words), dtype=np.int64)
    ranks[np.argsort(np.array([word or "" for word in words.to_pylist()]), kind="stable")] = np.arange(len(words))
    return ranks


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
