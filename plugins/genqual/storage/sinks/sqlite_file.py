"""SQLite files: write-ahead log, a busy timeout, and no network file system. Knows nothing of records."""

from __future__ import annotations

import sqlite3
import time
from os import W_OK, access
from pathlib import Path
from typing import Final
from urllib.parse import quote

import sqlalchemy as sa

from genqual.errors import BadInput
from genqual.records.redaction import redact
from genqual.storage.sinks.base import SinkFailed

BUSY_S: Final = 30.0  # how long a writer waits for the others; without it most inserts of 32 processes fail
NETWORK: Final = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
        *("ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs"),
        *("fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "fuse.mount-s3", "fuse.rclone"),
    }
)
"""File systems that other hosts write to: a write-ahead log lives in memory that only one host's processes share."""

_MOUNTS: Final = Path("/proc/self/mountinfo")


def path_of(url: sa.URL, given: str) -> Path:
    """The file that `url` names, absolute. Raises BadInput where it names none, or several things."""
    database = url.database or ""
    if not database or database.startswith((":memory:", "file:")) or url.query:
        raise BadInput(f"{redact(given)}: give one plain file, sqlite:///relative.db or sqlite:////absolute.db")
    return Path(database).expanduser().absolute()


def refuse_network(path: Path, mounts: Path = _MOUNTS) -> None:
    """Raise SinkFailed where `path` is on a file system that other hosts may write to as well."""
    kind = file_system(path, mounts)
    if kind in NETWORK:
        raise SinkFailed(
            f"sqlite:///{path} is on a network file system ({kind}), where SQLite's write-ahead log loses data: give a"
            " file on a local disk, a directory as file:///DIR, or a server as postgresql://. The records stay in the"
            " spool; `genqual push URL` sends them there"
        )


def file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The type of file system that `path` is, or will be, on; None where the kernel does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place, best, kind = path.resolve(), -1, None
    for line in lines:  # "36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw": proc(5)
        before, separator, after = line.partition(" - ")
        words = before.split()
        if not separator or len(words) < 5:
            continue
        point = Path(words[4].encode().decode("unicode_escape"))
        if place.is_relative_to(point) and len(point.parts) >= best:  # of two on one point, the later one covers
            best, kind = len(point.parts), after.split()[0]
    return kind


def writer(path: Path) -> sa.Engine:
    """An engine that makes the file, in WAL mode, and takes the write lock at the start of a transaction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _engine(path, "rwc")


def reader(path: Path) -> sa.Engine:
    """An engine that changes nothing."""
    # A reader of a WAL database needs the side files -wal and -shm. Where it may, it must also be able to remove
    # them again, which mode=ro cannot; on a read-only medium, where no journal waits, it must not want them.
    if access(path.parent, W_OK):
        return _engine(path, "rw")
    waiting = path.with_name(f"{path.name}-wal").exists()
    return _engine(path, "ro" if waiting else "ro&immutable=1")


def _engine(path: Path, mode: str) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None
        )
        if mode == "rwc":
            use_wal(connection)
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


def use_wal(connection: sqlite3.Connection) -> None:
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
