"""Make or migrate the tables of a database, by Alembic. Only `genqual db` calls this; no sink does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from genqual.errors import BadInput
from genqual.records.redaction import redact, scheme, scrub
from genqual.storage.sinks import sqlite_file
from genqual.storage.sinks.base import SinkFailed
from genqual.storage.sinks.retrying import need
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sinks.table import HEAD, VERSION


def version(url: str) -> str | None:
    """The version of the tables at `url`; None where there is none of ours. Raises BadInput or SinkFailed."""
    with _connected(url) as connection:
        return _version(connection)


def upgrade(url: str) -> tuple[str | None, str]:
    """Bring the tables at `url` to our version, in one transaction; what they were of and what they are of now.

    Raises BadInput on a URL that is no database's, SinkFailed when the database refuses or is newer than this genqual.
    """
    need("alembic", f"genqual db upgrade {redact(url)}")
    from alembic import command
    from alembic.config import Config

    with _connected(url) as connection:
        before = _version(connection)
        if before is not None and before > HEAD:
            raise SinkFailed(f"{redact(url)} is of version {before}, this genqual knows {HEAD}: upgrade genqual")
        with as_file(files("genqual.storage.sinks") / "migrations") as place:
            config = Config(attributes={"connection": connection})
            config.set_main_option("script_location", str(place).replace("%", "%%"))
            command.upgrade(config, HEAD)
        return before, HEAD


@contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    if scheme(url) not in ("sqlite", "postgresql"):
        raise BadInput(f"{redact(url)}: only databases have tables to upgrade: sqlite:///PATH or postgresql://...")
    sink = SqlSink.open(url)
    if sink.path is not None:
        sqlite_file.refuse_network(sink.path)
    engine = sink.server() if sink.path is None else sqlite_file.writer(sink.path)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                # Two upgrades at once: the second waits, then finds nothing to do. Filling columns may take long.
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('genqual'))")
            yield connection
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise SinkFailed(f"{redact(url)}: {' '.join(scrub(str(cause), url).split())}") from None
    finally:
        engine.dispose()


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION.name):
        return None
    return connection.execute(sa.select(VERSION.c.version_num)).scalar_one_or_none()
