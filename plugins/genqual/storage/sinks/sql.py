"""Records in a relational table, through SQLAlchemy Core: SQLite files and PostgreSQL servers by the same code.

The table is an index: `body` holds a record's canonical bytes, and every other column is read from them. A SQLite file
is made on first use; a server's table is made by `genqual db upgrade`, never by a client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from genqual.errors import BadInput, pip_install
from genqual.records.record import CorruptRecord, FutureRecord, Record
from genqual.records.redaction import redact, scrub
from genqual.storage.sinks import sqlite_file
from genqual.storage.sinks.base import Query, SinkBusy, SinkFailed, columns_of
from genqual.storage.sinks.newest import newest_runs, query_conditions
from genqual.storage.sinks.retrying import need, patiently
from genqual.storage.sinks.table import HEAD, RECORDS, VERSION

CHUNK: Final = 200  # records a transaction: short enough that others need not wait long
# A server that accepts and then says nothing must not hold a run that has ended.
CONNECT_S: Final = 10
STATEMENT_MS: Final = 60_000

_MOMENTARY: Final = ("08", "40", "53", "57")  # PostgreSQL's classes: connection, rollback, resources, operator
_TOO_SLOW: Final = "57014"  # our own limit on a statement
_PASSING: Final = ("starting up", "shutting down", "recovery", "too many", "remaining connection slots", "terminating")

KEPT: Final = "The records stay in the spool; mend this, then `genqual push` sends them"


class SqlSink:
    """A `records` table. For SQLite `name` is the absolute path, so that the ledger does not depend on where we ran."""

    def __init__(self, url: sa.URL, given: str) -> None:
        self._url = url
        self._given = given
        self.path = sqlite_file.path_of(url, given) if url.get_backend_name() == "sqlite" else None
        self.name = redact(given) if self.path is None else f"sqlite:///{self.path}"
        self._writer: sa.Engine | None = None

    @classmethod
    def open(cls, url: str) -> Self:
        """Read `url`, touching nothing. Raises BadInput when it is malformed or its driver is not installed."""
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":  # SQLAlchemy would take psycopg2
                parsed = parsed.set(drivername="postgresql+psycopg")
            parsed.get_dialect().import_dbapi()
        except (SQLAlchemyError, ValueError):
            raise BadInput(f"{redact(url)}: not a database URL; give for example sqlite:///results.db") from None
        except ImportError as error:
            command = pip_install(extra="upload")
            raise BadInput(f"{redact(url)}: its driver is missing ({error}); {command}") from None
        made = cls(parsed, url)
        if made.path is None:
            need("tenacity", redact(url))
        return made

    def send(self, records: Sequence[Record]) -> int:
        """Insert what is not here yet, in one transaction for every 200; the count of rows that are new."""
        # In one order everywhere: two senders of the same records cannot wait for each other.
        rows = [{**columns_of(one), "body": one.to_bytes().decode()} for one in sorted(records, key=lambda r: r.id)]
        new = 0
        for start in range(0, len(rows), CHUNK):
            insert = partial(self._insert, rows[start : start + CHUNK])
            new += insert() if self.path is not None else patiently(insert)
        return new

    def _insert(self, rows: list[dict[str, str | int | None]]) -> int:
        with self._failing("written", KEPT):
            engine = self._ready()
            insert = (sqlite if engine.dialect.name == "sqlite" else postgresql).insert
            # Without preserve_rowcount SQLAlchemy forgets how many of an INSERT's rows were new on some drivers.
            statement = insert(RECORDS).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
            with engine.begin() as connection:
                return connection.execute(statement, rows).rowcount

    def read(self, query: Query) -> Iterator[Record]:
        """Verified records, oldest first; creates and changes nothing. A row that was altered raises SinkFailed."""
        columns = sa.select(RECORDS.c.id, RECORDS.c.body)
        statement = columns.where(*query_conditions(query)).order_by(RECORDS.c.created, RECORDS.c.id)
        engine = self._reader()
        try:
            with (
                self._failing("read", "Give a database that genqual wrote, or a directory of records"),
                engine.connect() as connection,
            ):
                if self.path is None:
                    self._check_version(connection)
                if query.newest:
                    statement = newest_runs(statement, query)
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
        """The engine to write with: a SQLite file's table made on first use, a server's found at our version."""
        if self._writer is not None:
            return self._writer
        if self.path is not None:
            sqlite_file.refuse_network(self.path)
            engine = sqlite_file.writer(self.path)
            with engine.begin() as connection:
                if not sa.inspect(connection).has_table(RECORDS.name):
                    _make(connection)
                self._check_version(connection)
        else:
            engine = self.server()
            with engine.connect() as connection:
                self._check_version(connection)
        self._writer = engine
        return engine

    def _reader(self) -> sa.Engine:
        if self.path is None:
            return self.server()
        if not self.path.is_file():
            raise SinkFailed(f"{self.name}: there is no such file; a run with --upload {self.name} makes it")
        return sqlite_file.reader(self.path)

    def server(self) -> sa.Engine:
        """Connections to the server, with limits on how long it may take."""
        limits = {"connect_timeout": CONNECT_S, "tcp_user_timeout": STATEMENT_MS}
        # No pool: a chunk is one transaction, and a server that restarted has left no dead connection behind.
        arguments = {**limits, "application_name": "genqual"}
        engine = sa.create_engine(self._url, connect_args=arguments, poolclass=sa.NullPool)

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_MS}")

        return engine

    def _check_version(self, connection: sa.Connection) -> None:
        """Raise SinkFailed, with the command, where the table is missing, older or newer than what we write."""
        found = None
        if sa.inspect(connection).has_table(VERSION.name):
            found = connection.execute(sa.select(VERSION.c.version_num)).scalar_one_or_none()
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise SinkFailed(
                f"{self.name}: its tables are of version {found}, this genqual writes {HEAD}: upgrade genqual. {KEPT}"
            )
        state = f"is of version {found}, not {HEAD}" if found else f"has no tables of version {HEAD}"
        raise SinkFailed(
            f"{self.name} {state}: `genqual db upgrade {self.name}` makes them, once, by someone who may. {KEPT}"
        )

    @contextmanager
    def _failing(self, verb: str, next_step: str) -> Iterator[None]:
        """Turn what a driver or the file system raises into one paragraph without a password."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            reason = " ".join(scrub(str(cause), self._given).split())
            kind = SinkBusy if self.path is None and may_pass(cause) else SinkFailed
            raise kind(f"{self.name} cannot be {verb}: {reason}. {next_step}") from None


def may_pass(error: BaseException) -> bool:
    """Whether a PostgreSQL driver's error is one of a moment: a restart, a lost connection, a limit, a deadlock.

    A refused password, a missing database or a table without a column does not get better by waiting.
    """
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return state[:2] in _MOMENTARY and state != _TOO_SLOW
    if not {"OperationalError", "InterfaceError"} & {kind.__name__ for kind in type(error).__mro__}:
        return False
    # libpq gives no code for what happens while connecting, only the server's last words.
    text = str(error)
    return "FATAL" not in text or any(words in text for words in _PASSING)


def _make(connection: sa.Connection) -> None:
    for table in (RECORDS, VERSION):
        connection.execute(CreateTable(table, if_not_exists=True))
    for index in sorted(RECORDS.indexes, key=lambda index: str(index.name)):
        connection.execute(CreateIndex(index, if_not_exists=True))
    connection.execute(sa.insert(VERSION).values(version_num=HEAD))
