"""PostgreSQL, a real server: the same records as in SQLite, migrations by command only, restarts, and refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from genqual.commands.db import db
from genqual.errors import BadInput
from genqual.records.record import Record
from genqual.storage.push import push
from genqual.storage.sinks import sql
from genqual.storage.sinks.base import Query, SinkBusy, SinkFailed
from genqual.storage.sinks.retrying import PATIENCE
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sinks.table import HEAD
from genqual.storage.sinks.upgrade import upgrade, version
from genqual.storage.sources import load
from genqual.storage.spool import Spool
from tests.results.make import record, verdict
from tests.results.postgres import PASSWORD, Server
from tests.results.test_sinks import HELD, QUERIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(postgres: Server) -> str:
    made = postgres.database()
    assert upgrade(made) == (None, HEAD)
    return made


def count(url: str, statement: str = "select count(*), count(distinct id) from records") -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def kept(url: str) -> int:
    return int(str(count(url)[0][0]))


def test_records_come_back_identical_and_a_second_sending_changes_nothing(url: str) -> None:
    sink = SqlSink.open(url)
    made = [record(run=f"run-{n}", created=f"2026-05-{1 + n % 28:02}T00:00:00.000000Z") for n in range(450)]
    assert sink.send(made) == 450
    assert sink.send(made[:10]) == 0
    assert sink.send([*made, verdict(run="new")]) == 1
    sink.close()
    back = list(SqlSink.open(url).read(Query(kind="measurement")))
    expected = sorted(made, key=lambda one: (one.created, one.id))
    assert [one.to_bytes() for one in back] == [one.to_bytes() for one in expected]
    assert count(url) == [(451, 451)]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_the_server_and_the_query_itself_choose_the_same_records(url: str, query: Query, expected: set[str]) -> None:
    sink = SqlSink.open(url)
    sink.send(HELD)
    assert {one.run for one in sink.read(query)} == expected


def test_a_person_names_a_server_as_any_other_source(url: str) -> None:
    SqlSink.open(url).send(HELD)
    assert [one.run for one in load(f"{url}#class=h100")] == ["run-b"]


def test_a_server_without_our_tables_names_the_command_and_makes_nothing(postgres: Server) -> None:
    url = postgres.database()
    for use in (lambda: SqlSink.open(url).send([record()]), lambda: list(SqlSink.open(url).read(Query()))):
        with pytest.raises(SinkFailed, match=r"has no tables of version .*`genqual db upgrade postgresql://") as caught:
            use()
        assert not isinstance(caught.value, SinkBusy)  # waiting does not help
        assert PASSWORD not in str(caught.value)
    assert count(url, "select count(*) from information_schema.tables where table_schema = 'public'") == [(0,)]


def test_genqual_db_makes_the_tables_says_so_and_does_nothing_twice(postgres: Server) -> None:
    url = postgres.database()
    shown = []
    for words in (["version", url], ["upgrade", url], ["upgrade", url], ["version", url]):
        done = CliRunner().invoke(db, words)
        assert done.exit_code == 0, done.output
        shown.append(done.output)
    assert "version none; this genqual writes" in shown[0]
    assert f"version {HEAD}, upgraded from nothing" in shown[1]
    assert f"version {HEAD}, nothing to do" in shown[2]
    assert not any(PASSWORD in text for text in shown)
    assert SqlSink.open(url).send([record()]) == 1


FIRST_TABLE = """
create table records (id varchar(64) primary key, created text not null, run text not null, kind text not null,
 key varchar(64) not null, device text not null, class_id text not null, engine text not null, model text not null,
 dtype text not null, ranks integer not null, status text not null, provenance text not null, body text not null);
create index ix_records_run on records (run);
create index ix_records_key on records (key);
create index ix_records_class_id on records (class_id);
"""


def old_row(one: Record) -> dict[str, object]:
    names = ("id", "created", "run", "kind", "key")
    told = {name: getattr(one, name) for name in names}
    flat = {"device": "xeon", "class_id": "xeon-6-2c", "engine": "e", "model": "m", "dtype": "bf16", "ranks": 1}
    return {**told, **flat, "status": "ok", "provenance": "measured", "body": one.to_bytes().decode()}


def test_a_table_of_the_first_version_is_filled_from_its_bodies(postgres: Server) -> None:
    url = postgres.database()
    system = record().system.model_copy(update={"host": "hashed:abc"})
    made = [record(run=f"run-{n}").model_copy(update={"system": system}) for n in range(1200)]
    with psycopg.connect(url) as connection:
        connection.execute(FIRST_TABLE.encode())
        rows = [old_row(one) for one in made]
        names = ", ".join(rows[0])
        marks = ", ".join(f"%({name})s" for name in rows[0])
        connection.cursor().executemany(f"insert into records ({names}) values ({marks})".encode(), rows)
    with pytest.raises(SinkFailed, match="genqual db upgrade"):
        SqlSink.open(url).send(made)
    upgrade(url)
    assert version(url) == HEAD
    assert count(url, "select host, count(*) from records group by host") == [("hashed:abc", 1200)]
    assert SqlSink.open(url).send(made) == 0
    assert len(list(SqlSink.open(url).read(Query(host="hashed:abc")))) == 1200


def test_a_table_of_a_newer_genqual_is_left_alone(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("update alembic_version set version_num = '0999'")
    with pytest.raises(SinkFailed, match="of version 0999, this genqual writes"):
        SqlSink.open(url).send([record()])
    with pytest.raises(SinkFailed, match="upgrade genqual"):
        upgrade(url)


def test_of_each_configuration_the_newest_run_is_found(url: str) -> None:
    made = [
        record(run=f"run-{day}", batch=batch, class_id=name, created=f"2026-05-{day:02}T00:00:00.000000Z")
        for day in (1, 2, 3)
        for batch in (1, 2)
        for name in ("xeon-a", "xeon-b")
    ]
    again = made[-1].model_copy(update={"attempt": 2})  # the same run tried twice: both count
    sink = SqlSink.open(url)
    sink.send([*made, again])
    assert {one.id for one in sink.read(Query(newest=True))} == {one.id for one in [*made[-4:], again]}
    assert {one.run for one in sink.read(Query(newest=True, run="run-2"))} == {"run-2"}
    assert len(list(sink.read(Query(newest=True, class_id="xeon-a")))) == 2
    assert list(sink.read(Query(newest=True, class_id="none"))) == []


def test_a_server_that_restarts_is_waited_for(url: str, postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "60")
    sink = SqlSink.open(url)
    assert sink.send([record()]) == 1
    new: list[int] = []
    postgres.stop(signal.SIGQUIT)
    try:
        sending = threading.Thread(target=lambda: new.append(sink.send([record(run="later")])))
        sending.start()
        time.sleep(0.5)  # it has been refused by now, which is what this is about
    finally:
        postgres.start()
    sending.join()
    assert new == [1]
    assert count(url) == [(2, 2)]


@pytest.mark.heavy
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
def test_thirty_two_processes_send_each_record_twice_through_a_restart(
    url: str, postgres: Server, how: signal.Signals
) -> None:
    sending = subprocess.Popen(
        [sys.executable, "-m", "tests.results.writers", url, "32", "200", "20"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, PATIENCE: "120"},
    )
    try:
        while sending.poll() is None and kept(url) < 1000:
            time.sleep(0.02)  # the middle of it, which nothing tells us but the table
        middle = kept(url)
        postgres.stop(how)
        postgres.start()
        output, errors = sending.communicate(timeout=300)
    finally:
        sending.kill()
        sending.communicate()
    assert sending.returncode == 0, errors
    # The driver notes the connections that the server cut; nothing else is said.
    assert not [line for line in errors.splitlines() if "Traceback" in line or PASSWORD in line]
    assert 1000 <= middle < 6400
    assert count(url, "select count(*), count(distinct id), count(distinct run) from records") == [(6400, 6400, 32)]
    # A commit whose answer the restart swallowed is sent again and is not new then: at most as many as were on the way.
    assert 6400 - 32 * 20 <= sum(map(int, output.split())) <= 6400


def test_kill_at_random_moments_of_pushing_to_a_server_loses_nothing(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.results.killed", str(tmp_path), "12", url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promised = set(done.stdout.split())
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second")
    report = push(spool, [url])
    assert (report.ok, report.set_aside) == (True, [])
    kept_now = [one.id for one in SqlSink.open(url).read(Query())]
    assert promised <= set(kept_now) == set(spool.ids())
    assert len(kept_now) == len(set(kept_now))


def test_a_server_that_is_down_is_one_sink_s_failure(
    tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0.3")
    spool = Spool(tmp_path / "spool")
    spool.write(record())
    gone = postgres.url("x").replace(str(postgres.port), "1")
    report = push(spool, [gone, f"sqlite:///{tmp_path}/a.db"])
    assert [one.sent for one in report.deliveries] == [0, 1]
    assert "refused" in str(report.deliveries[0])
    assert PASSWORD not in "\n".join(report.lines())


def test_a_server_that_accepts_and_says_nothing_holds_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    monkeypatch.setattr(sql, "CONNECT_S", 2)  # the least that libpq takes
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(SinkBusy, match="timeout"):
            SqlSink.open(f"postgresql://alice@127.0.0.1:{port}/x").send([record()])
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((f":{PASSWORD}@", ":wr0ng@"), "password authentication failed"),
        (("/results", "/nowhere"), "does not exist"),
    ],
)
def test_what_waiting_cannot_mend_is_said_at_once(
    url: str, change: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "300")
    begun = time.monotonic()
    with pytest.raises(SinkFailed, match=words) as caught:
        SqlSink.open(url.replace(*change)).send([record()])
    assert time.monotonic() - begun < 60
    assert "wr0ng" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_patience_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "soon")
    with pytest.raises(BadInput, match="GENQUAL_UPLOAD_PATIENCE=soon: give the seconds"):
        SqlSink.open(url).send([record()])


def test_no_password_reaches_a_traceback_of_a_process(url: str, tmp_path: Path) -> None:
    Spool(tmp_path / "spool").write(record())
    wrong = url.replace(PASSWORD, "wr0ng")
    done = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "push", "--spool", str(tmp_path / "spool"), wrong],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, PATIENCE: "0"},
    )
    assert done.returncode == 1
    assert "password authentication failed" in done.stdout
    assert "wr0ng" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_body_is_the_record_and_every_column_is_read_from_it(url: str) -> None:
    made = record()
    SqlSink.open(url).send([made])
    ((body, key, host),) = count(url, "select body, key, host from records")
    assert json.loads(str(body))["id"] == made.id
    assert (key, host) == (made.key, None)
