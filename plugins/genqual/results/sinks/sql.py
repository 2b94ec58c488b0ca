"""Records in a relational table, through SQLAlchemy Core: SQLite now, any dialect with ON CONFLICT by the same code.

The table is an index: `body` holds a record's canonical bytes, and every other column is read from them. SQLite files
are created on first use; other databases must have the table already.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import W_OK, access
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from genqual.errors import BadInput
from genqual.results.record import CorruptRecord, FutureRecord, Record
from genqual.results.sinks.base import Query, SinkFailed, columns_of
from genqual.results.sinks.urls import redact, scrub

BUSY_S: Final = 30.0  # how long a writer waits for the others; without it most inserts of 32 processes fail
CHUNK: Final = 200  # records a transaction: short enough that others need not wait long

RECORDS: Final = sa.Table(
    "records",
    sa.MetaData(),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("class_id", sa.Text, nullable=False, index=True),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("dtype", sa.Text, nullable=False),
    sa.Column("ranks", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("provenance", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)


class SqlSink:
    """A `records` table. For SQLite `name` is the absolute path, so that the ledger does not depend on where we ran."""

    def __init__(self, url: sa.URL, given: str) -> None:
        self._url = url
        self._given = given
        self._path: Path | None = None
        self.name = redact(given)
        if url.get_backend_name() == "sqlite":
            self._path = _sqlite_path(url, given)
            self.name = f"sqlite:///{self._path}"
        self._writer: sa.Engine | None = None

    @classmethod
    def open(cls, url: str) -> Self:
        """Read `url`, touching nothing. Raises BadInput when it is malformed or its driver is not installed."""
        try:
            parsed = sa.make_url(url)
            parsed.get_dialect().import_dbapi()
        except (SQLAlchemyError, ValueError):
            raise BadInput(f"{redact(url)}: not a database URL; give for example sqlite:///results.db") from None
        except ImportError as error:
            raise BadInput(f"{redact(url)}: its driver is missing ({error}); pip install 'genqual[upload]'") from None
        return cls(parsed, url)

    def send(self, records: Sequence[Record]) -> int:
        """Insert what is not here yet, in one transaction for every 200; the count of rows that are new."""
        new = 0
        with self._failing("written", "The records stay in the spool; mend this, then `genqual push` sends them"):
            engine = self._ready()
            insert = (sqlite if engine.dialect.name == "sqlite" else postgresql).insert
            # Without preserve_rowcount SQLAlchemy forgets how many of an INSERT's rows were new on some drivers.
            statement = insert(RECORDS).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
            for start in range(0, len(records), CHUNK):
                rows = [{**columns_of(r), "body": r.to_bytes().decode()} for r in records[start : start + CHUNK]]
                with engine.begin() as connection:
                    new += connection.execute(statement, rows).rowcount
        return new

    def read(self, query: Query) -> Iterator[Record]:
        """Verified records, oldest first; creates and changes nothing. A row that was altered raises SinkFailed."""
        statement = sa.select(RECORDS.c.id, RECORDS.c.body).order_by(RECORDS.c.created, RECORDS.c.id)
        for name, value in query.conditions.items():
            column = RECORDS.c[name]
            if name in query.PREFIXES:
                statement = statement.where(sa.func.substr(column, 1, len(value)) == value)
            else:
                statement = statement.where(column == value)
        engine = self._reader()
        try:
            with (
                self._failing("read", "Give a database that genqual wrote, or a directory of records"),
                engine.connect() as connection,
            ):
                for identifier, body in connection.execute(statement.execution_options(yield_per=CHUNK)):
                    yield self._verified(identifier, body)
        finally:
            engine.dispose()

    def close(self) -> None:
        """Let go of the connections. May be called twice."""
        if self._writer is not None:
            self._writer.dispose()
            self._writer = None

    def _verified(self, identifier: str, body: str) -> Record:
        try:
            record = Record.from_bytes(body.encode())
        except (CorruptRecord, FutureRecord) as error:
            raise SinkFailed(f"{self.name}: row {identifier}: {error}") from None
        if record.id != identifier:
            raise SinkFailed(f"{self.name}: row {identifier} holds record {record.id}: it was changed after writing")
        return record

    def _ready(self) -> sa.Engine:
        """The engine to write with, its table made on first use where that is ours to do."""
        if self._writer is not None:
            return self._writer
        if self._path is None:
            self._writer = sa.create_engine(self._url)
            return self._writer
        self._path.parent.mkdir(parents=True, exist_ok=True)
        engine = _sqlite_engine(self._path, "rwc")
        with engine.begin() as connection:
            connection.execute(CreateTable(RECORDS, if_not_exists=True))
            for index in sorted(RECORDS.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index, if_not_exists=True))
        self._writer = engine
        return engine

    def _reader(self) -> sa.Engine:
        if self._path is None:
            return sa.create_engine(self._url)
        if not self._path.is_file():
            raise SinkFailed(f"{self.name}: there is no such file; a run with --upload {self.name} makes it")
        # A reader of a WAL database needs the side files -wal and -shm. Where it may, it must also be able to remove
        # them again, which mode=ro cannot; on a read-only medium, where no journal waits, it must not want them.
        if access(self._path.parent, W_OK):
            return _sqlite_engine(self._path, "rw")
        waiting = self._path.with_name(f"{self._path.name}-wal").exists()
        return _sqlite_engine(self._path, "ro" if waiting else "ro&immutable=1")

    @contextmanager
    def _failing(self, verb: str, next_step: str) -> Iterator[None]:
        """Turn what a driver or the file system raises into one paragraph without a password."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = " ".join(scrub(str(cause), self._given).split())
            raise SinkFailed(f"{self.name} cannot be {verb}: {reason}. {next_step}") from None


def _sqlite_path(url: sa.URL, given: str) -> Path:
    database = url.database or ""
    if not database or database.startswith((":memory:", "file:")) or url.query:
        raise BadInput(f"{redact(given)}: give one plain file, sqlite:///relative.db or sqlite:////absolute.db")
    return Path(database).expanduser().absolute()


def _sqlite_engine(path: Path, mode: str) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None
        )
        if mode == "rwc":
            _use_wal(connection)
            connection.execute("PRAGMA synchronous=FULL")  # the ledger says "sent": it must survive a power cut
        else:
            connection.execute("PRAGMA query_only=ON")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # Take the write lock at once: one taken later cannot wait for the others, it fails.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if mode == "rwc" else "BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Readers and one writer side by side.

    The switch does not heed the busy timeout: of 1,200 processes, eight at once on a new file, 24 failed without this.
    """
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # another process is switching the same new file
        else:
            return
