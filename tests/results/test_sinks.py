from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from genqual.errors import BadInput
from genqual.records.record import Record
from genqual.storage.sinks import sqlite_file
from genqual.storage.sinks.base import Query, SinkFailed
from genqual.storage.sinks.registry import ledger_name, open_sink, schemes
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sinks.sqlite_file import use_wal
from genqual.storage.sinks.table import HEAD
from genqual.storage.sinks.upgrade import upgrade
from tests.results.make import record, verdict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "er" / "results.db"


@pytest.fixture
def sink(database: Path) -> Iterator[SqlSink]:
    made = SqlSink.open(f"sqlite:///{database}")
    yield made
    made.close()


def rows(database: Path, statement: str) -> list[tuple[object, ...]]:
    """What another reader sees: the standard library's sqlite3."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(statement).fetchall()


def test_sending_twice_keeps_one_row(sink: SqlSink, database: Path) -> None:
    made = [record(run=f"run-{n}") for n in range(450)]
    assert sink.send(made) == 450
    assert sink.send(made[:10]) == 0
    assert sink.send([*made, record(run="new")]) == 1
    assert rows(database, "select count(*), count(distinct id) from records") == [(451, 451)]


def test_a_row_is_the_record_and_an_index_of_it(sink: SqlSink, database: Path) -> None:
    made = verdict(name="cache", ranks=2, dtype="fp32", created="2026-05-02T00:00:00.000000Z")
    sink.send([made])
    columns = "id, created, run, kind, key, device, class_id, engine, model, dtype, ranks, status, provenance, body"
    (row,) = rows(database, f"select {columns} from records")
    assert row == (
        made.id,
        "2026-05-02T00:00:00.000000Z",
        "run-1",
        "judgement",
        made.key,
        "xeon",
        "xeon-6-2c",
        "transformers",
        "llama-30m",
        "fp32",
        2,
        "ok",
        "measured",
        made.to_bytes().decode(),
    )


def test_a_database_is_made_with_its_directory_in_wal_mode_and_only_when_used(sink: SqlSink, database: Path) -> None:
    assert not database.parent.exists()
    sink.send([record()])
    assert rows(database, "pragma journal_mode") == [("wal",)]


QUERIES: list[tuple[Query, set[str]]] = [
    (Query(), {"run-a1", "run-a2", "run-b"}),
    (Query(run="run-a"), {"run-a1", "run-a2"}),
    (Query(run="RUN-A"), set()),
    (Query(class_id="h100"), {"run-b"}),
    (Query(device="xeon", dtype="bf16"), {"run-a1"}),
    (Query(engine="deepspeed-inference"), {"run-a2"}),
    (Query(model="llama-30m", kind="measurement"), {"run-a1", "run-a2", "run-b"}),
    (Query(kind="judgement"), set()),
]
HELD = [
    record(run="run-a1"),
    record(run="run-a2", dtype="fp32", engine="deepspeed-inference"),
    record(run="run-b", device="cuda", class_id="h100"),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_the_database_and_the_query_itself_choose_the_same_records(
    sink: SqlSink, query: Query, expected: set[str]
) -> None:
    sink.send(HELD)
    assert {one.run for one in sink.read(query)} == expected
    assert {one.run for one in HELD if query.matches(one)} == expected


def test_a_wildcard_in_a_run_is_no_wildcard(sink: SqlSink) -> None:
    sink.send([record(run="a_b"), record(run="axb")])
    assert [one.run for one in sink.read(Query(run="a_"))] == ["a_b"]


def test_records_come_back_oldest_first_and_identical(sink: SqlSink) -> None:
    made = [record(run=f"run-{n}", created=f"2026-05-{day:02}T00:00:00.000000Z") for n, day in enumerate((3, 1, 2))]
    sink.send(made)
    back = list(sink.read(Query()))
    assert back == [made[1], made[2], made[0]]
    assert [one.to_bytes() for one in back] == [one.to_bytes() for one in (made[1], made[2], made[0])]


def test_a_row_that_was_altered_is_not_read(sink: SqlSink, database: Path) -> None:
    made = record()
    sink.send([made])
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("update records set body = replace(body, '0.02', '0.01')")
        connection.commit()
    with pytest.raises(SinkFailed, match=rf"row {made.id}: .*changed after writing"):
        list(sink.read(Query()))


def test_a_row_under_another_id_is_not_read(sink: SqlSink, database: Path) -> None:
    sink.send([record()])
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("update records set id = 'x'")
        connection.commit()
    with pytest.raises(SinkFailed, match="row x holds record"):
        list(sink.read(Query()))


def test_reading_makes_nothing(sink: SqlSink, database: Path) -> None:
    with pytest.raises(SinkFailed, match="there is no such file"):
        list(sink.read(Query()))
    assert not database.parent.exists()


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database, " * 500)


def _directory(path: Path) -> None:
    path.mkdir()


def _other_table(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("create table records (id text)")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_garbage, "file is not a database"), (_directory, "unable to open"), (_other_table, "has no tables of version")],
)
def test_what_is_no_database_of_ours_is_a_clear_error(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "results.db"
    make(path)
    sink = SqlSink.open(f"sqlite:///{path}")
    with pytest.raises(SinkFailed, match=rf"results\.db .*({reason}).*records stay in the spool"):
        sink.send([record()])
    sink.close()


def test_a_path_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkFailed, match=r"cannot be written: .*(Not a directory|File exists)"):
        SqlSink.open(f"sqlite:///{tmp_path}/file/results.db").send([record()])


def test_a_foreign_file_is_a_clear_error_to_a_reader(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("create table t (a)")
    with pytest.raises(
        SinkFailed, match=r"cannot be read: no such table: records\. Give a database that genqual wrote"
    ):
        list(SqlSink.open(f"sqlite:///{tmp_path}/x.db").read(Query()))


def test_a_full_disk_leaves_the_database_as_it_was(tmp_path: Path, disk: Path) -> None:
    sink = SqlSink.open(f"sqlite:///{disk}/results.db")
    kept = [record(run="kept")]
    sink.send(kept)
    with pytest.raises(SinkFailed, match=r"disk I/O error|full"):
        sink.send([record(run=f"run-{n}") for n in range(400)])
    assert [one.run for one in sink.read(Query(run="kept"))] == ["kept"]
    sink.close()


def test_a_read_only_disk_can_be_read_and_is_a_clear_error_to_write(disk: Path) -> None:
    sink = SqlSink.open(f"sqlite:///{disk}/results.db")
    sink.send([record()])
    sink.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert list(sink.read(Query())) == [record()]
    with pytest.raises(SinkFailed, match=r"cannot be written: .*(readonly|read-only|unable to open)"):
        sink.send([record(run="new")])
    sink.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB, where we may mount one."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(where)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_eight_processes_send_every_record_twice_into_a_database_that_none_has_made(database: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.results.writers", f"sqlite:///{database}", "8", "25", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database, "select count(*), count(distinct id) from records") == [(200, 200)]
    assert rows(database, "select count(distinct run) from records") == [(8,)]
    assert sum(map(int, done.stdout.split())) == 200  # each was new to exactly one sending
    sink = SqlSink.open(f"sqlite:///{database}")
    assert all(isinstance(one, Record) for one in sink.read(Query()))


@pytest.mark.heavy
def test_thirty_two_processes_send_two_hundred_records_each_twice(database: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.results.writers", f"sqlite:///{database}", "32", "200", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(database, "select count(*), count(distinct id), count(distinct run) from records") == [(6400, 6400, 32)]
    assert sum(map(int, done.stdout.split())) == 6400


MOUNTS = """21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:26 / /mnt/share rw shared:2 - nfs4 server:/export rw
31 21 0:27 / /mnt/with\\040space rw shared:3 - fuse.sshfs user@host:/ rw
32 30 0:28 / /mnt/share/local rw shared:4 - xfs /dev/vdb rw
33 21 0:29 / /home rw - cifs //server/home rw
34 21 0:30 / /home rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/results.db", None),
        ("/mnt/share/a/results.db", "nfs4"),
        ("/mnt/shared/results.db", None),
        ("/mnt/share/local/results.db", None),
        ("/mnt/with space/results.db", "fuse.sshfs"),
        ("/home/results.db", None),  # what was mounted later covers what was there
    ],
)
def test_a_network_file_system_is_refused_with_the_ways_out(path: str, kind: str | None, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    if kind is None:
        sqlite_file.refuse_network(Path(path), mounts)
        return
    with pytest.raises(SinkFailed, match=rf"network file system \({kind}\).*file:///DIR.*postgresql://.*genqual push"):
        sqlite_file.refuse_network(Path(path), mounts)


def test_a_run_does_not_write_where_it_must_not(sink: SqlSink, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "file_system", lambda path, mounts: "nfs")
    with pytest.raises(SinkFailed, match="network file system"):
        sink.send([record()])
    assert not database.exists()


def test_a_file_of_the_first_genqual_names_the_command_that_mends_it(database: Path) -> None:
    database.parent.mkdir(parents=True)
    made = record()
    values = [*(("xeon",) * 7), 1, "ok", "measured", made.to_bytes().decode()]
    names = "id, created, run, kind, key, device, class_id, engine, model, dtype, ranks, status, provenance, body"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"create table records ({names.replace('id,', 'id text primary key,', 1)})")
        for name in ("run", "key", "class_id"):
            connection.execute(f"create index ix_records_{name} on records ({name})")
        known = [made.id, made.created, made.run]
        connection.execute(f"insert into records values ({', '.join('?' * 14)})", [*known, *values])
        connection.commit()
    url = f"sqlite:///{database}"
    assert list(SqlSink.open(url).read(Query())) == [made]  # it is read as it is
    with pytest.raises(SinkFailed, match="genqual db upgrade sqlite:///"):
        SqlSink.open(url).send([record(run="new")])
    assert upgrade(url) == (None, HEAD)
    assert SqlSink.open(url).send([made, record(run="new")]) == 1


class Contended:
    """A connection to a file that another process is switching to WAL: locked `left` times, then free."""

    def __init__(self, left: int, words: str = "database is locked") -> None:
        self.left, self.words, self.ran = left, words, 0

    def execute(self, statement: str) -> None:
        assert statement == "PRAGMA journal_mode=WAL"
        self.ran += 1
        if self.ran <= self.left:
            raise sqlite3.OperationalError(self.words)


def test_the_switch_to_wal_waits_where_sqlite_itself_does_not() -> None:
    contended = Contended(3)
    use_wal(cast("sqlite3.Connection", contended))
    assert contended.ran == 4


@pytest.mark.parametrize(("words", "patience"), [("disk I/O error", 30.0), ("database is locked", 0.0)])
def test_the_switch_to_wal_waits_for_locks_only_and_not_for_ever(
    words: str, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_S", patience)
    with pytest.raises(sqlite3.OperationalError, match=words):
        use_wal(cast("sqlite3.Connection", Contended(10**9, words)))


def test_the_registered_schemes() -> None:
    assert "sqlite" in schemes()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://alice:s3cr3t@db/x", r"'mongodb://\*\*\*@db/x': no sink for that; installed are .*sqlite://"),
        ("results.db", "A database file is given as sqlite:///PATH"),
        ("sqlite://", "give one plain file"),
        ("sqlite:///:memory:", "give one plain file"),
        ("sqlite:///file:x?mode=ro", "give one plain file"),
        ("sqlite:///x.db?timeout=5", "give one plain file"),
        ("sqlite:/x.db", "no sink for that"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        open_sink(url)
    assert "s3cr3t" not in str(caught.value)


def test_a_malformed_url_is_refused_without_its_password() -> None:
    with pytest.raises(BadInput, match="not a database URL") as caught:
        SqlSink.open("postgresql://alice:s3cr3t@db:notaport/x")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    advice = r"postgresql\+psycopg://\*\*\*@db/x: its driver is missing .* -m pip install .*psycopg\[binary\]>="
    with pytest.raises(BadInput, match=advice):
        SqlSink.open("postgresql+psycopg://alice:s3cr3t@db/x")


def test_the_ledger_name_is_a_file_name_and_does_not_depend_on_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = ledger_name(open_sink("sqlite:///results.db"))
    assert relative == ledger_name(open_sink(f"sqlite:///{tmp_path}/results.db"))
    assert relative != ledger_name(open_sink("sqlite:///other.db"))
    assert os.sep not in relative
    assert len(relative) < 100
