from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from genqual.records.record import Record
from genqual.storage import push as pushing
from genqual.storage.push import push
from genqual.storage.sinks.base import Query, SinkFailed
from genqual.storage.spool import Spool
from tests.results.make import record


class Kept:
    """A sink in memory. `fault` is asked before every send."""

    def __init__(self, name: str, fault: Callable[[int], Exception | None] = lambda sends: None) -> None:
        self.name = name
        self.held: dict[str, Record] = {}
        self.sends = 0
        self.closed = 0
        self.fault = fault

    @classmethod
    def open(cls, url: str) -> Self:
        return cls(url)

    def send(self, records: Sequence[Record]) -> int:
        self.sends += 1
        if error := self.fault(self.sends):
            raise error
        new = {one.id: one for one in records if one.id not in self.held}
        self.held |= new
        return len(new)

    def read(self, query: Query) -> Iterator[Record]:
        return filter(query.matches, self.held.values())

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", fallback=tmp_path / "second")
    for number in range(5):
        made.write(record(run=f"run-{number}"))
    return made


@pytest.fixture
def sinks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Kept]:
    """Sinks by URL, in place of what is registered."""
    made: dict[str, Kept] = {}
    monkeypatch.setattr(pushing, "open_sink", lambda url: made[url])
    return made


def count(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("select count(*) from records").fetchone()[0])


def test_every_sink_gets_every_record_once(spool: Spool, tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("a", "b")]
    report = push(spool, urls)
    assert report.ok
    assert [(one.sink, one.sent, one.new) for one in report.deliveries] == [(url, 5, 5) for url in urls]
    assert [count(tmp_path / f"{name}.db") for name in ("a", "b")] == [5, 5]
    spool.write(record(run="later"))
    assert [(one.sent, one.new) for one in push(spool, urls).deliveries] == [(1, 1), (1, 1)]
    assert [(one.sent, one.new) for one in push(spool, urls).deliveries] == [(0, 0), (0, 0)]


def test_a_database_that_was_lost_is_made_again_from_the_spool(spool: Spool, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    push(spool, [url])
    for file in tmp_path.glob("a.db*"):
        file.unlink()
    assert [(one.sent, one.new) for one in push(spool, [url], again=True).deliveries] == [(5, 5)]
    assert [(one.sent, one.new) for one in push(spool, [url], again=True).deliveries] == [(5, 0)]
    assert count(tmp_path / "a.db") == 5


def test_a_sink_that_fails_keeps_its_records_pending_and_no_other_notices(spool: Spool, sinks: dict[str, Kept]) -> None:
    sinks |= {"down": Kept("down", lambda sends: SinkFailed("down cannot be written: refused")), "up": Kept("up")}
    report = push(spool, ["down", "up"])
    assert not report.ok
    assert [(one.sink, one.sent, one.failed) for one in report.deliveries] == [
        ("down", 0, "down cannot be written: refused"),
        ("up", 5, None),
    ]
    sinks["down"].fault = lambda sends: None
    assert [one.sent for one in push(spool, ["down", "up"]).deliveries] == [5, 0]
    assert len(sinks["down"].held) == len(sinks["up"].held) == 5
    assert [one.closed for one in sinks.values()] == [2, 2]


def test_a_sink_that_fails_half_way_is_not_sent_the_first_half_again(
    spool: Spool, sinks: dict[str, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "BATCH", 2)
    half = Kept("half", lambda sends: SinkFailed("gone") if sends == 2 else None)
    sinks["half"] = half
    assert [(one.sent, one.failed) for one in push(spool, ["half"]).deliveries] == [(2, "gone")]
    assert [(one.sent, one.new, one.failed) for one in push(spool, ["half"]).deliveries] == [(3, 3, None)]
    assert len(half.held) == 5


@pytest.mark.parametrize("error", [RuntimeError("boom for alice:s3cr3t"), OSError(28, "full"), KeyError("s3cr3t")])
def test_whatever_a_third_party_raises_is_a_reason_without_a_password(
    spool: Spool, sinks: dict[str, Kept], error: Exception
) -> None:
    url = "x://alice:s3cr3t@host/y"
    sinks[url] = Kept("x", lambda sends: error)
    (delivery,) = push(spool, [url]).deliveries
    assert delivery.sink == "x://***@host/y"
    assert delivery.failed is not None
    assert type(error).__name__ in delivery.failed
    assert "The records stay in the spool" in delivery.failed
    assert "s3cr3t" not in str(delivery)


def test_an_unknown_scheme_is_that_sink_s_failure_only(spool: Spool, tmp_path: Path) -> None:
    report = push(spool, ["mongodb://alice:s3cr3t@db/x", f"sqlite:///{tmp_path}/a.db"])
    assert [bool(one.failed) for one in report.deliveries] == [True, False]
    assert "s3cr3t" not in "\n".join(report.lines())


def test_a_damaged_file_is_reported_once_and_the_rest_is_sent_everywhere(spool: Spool, tmp_path: Path) -> None:
    spool.write(record(run="bad")).write_bytes(b"torn")
    future = spool.directory / ("e" * 64 + ".json")
    future.write_bytes(b'{"schema":"genqual/2.0"}')
    report = push(spool, [f"sqlite:///{tmp_path}/{name}.db" for name in ("a", "b")])
    assert report.ok
    assert [one.sent for one in report.deliveries] == [5, 5]
    assert len(report.quarantined) == 1
    assert len(report.set_aside) == 2
    text = "\n".join(report.lines())
    assert f"{spool.directory}/quarantine/" in text
    assert "left out: the record is genqual/2.0" in text


def test_a_batch_of_nothing_but_damaged_files_does_not_end_the_push(
    spool: Spool, sinks: dict[str, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "BATCH", 1)
    (spool.directory / ("0" * 64 + ".json")).write_bytes(b"torn")  # first in order
    sinks["up"] = Kept("up")
    assert [one.sent for one in push(spool, ["up"]).deliveries] == [5]


def test_records_in_the_fallback_are_sent_too(tmp_path: Path, sinks: dict[str, Kept]) -> None:
    (tmp_path / "spool").write_text("")
    spool = Spool(tmp_path / "spool", fallback=tmp_path / "second", announce=lambda text: None)
    spool.write(record())
    sinks["up"] = Kept("up")
    assert [one.sent for one in push(spool, ["up"]).deliveries] == [1]
    assert [one.sent for one in push(spool, ["up"]).deliveries] == [0]


def test_a_ledger_that_cannot_be_written_is_a_note(spool: Spool, sinks: dict[str, Kept]) -> None:
    (spool.directory / "sent").write_text("in the way")
    sinks["up"] = Kept("up")
    (delivery,) = push(spool, ["up"]).deliveries
    assert (delivery.sent, delivery.failed) == (5, None)
    assert delivery.note is not None
    assert "the next push sends them again" in delivery.note


def test_a_close_that_fails_does_not_stop_the_others(spool: Spool, sinks: dict[str, Kept]) -> None:
    class Clinging(Kept):
        def close(self) -> None:
            raise RuntimeError("no")

    sinks |= {"clinging": Clinging("clinging"), "up": Kept("up")}
    report = push(spool, ["clinging", "up"])
    assert [(one.sent, one.note) for one in report.deliveries] == [
        (5, "closing it failed: RuntimeError: no"),
        (5, None),
    ]


def test_a_third_party_s_sink_is_one_file_and_one_line(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site"
    (package / "lister-1.0.dist-info").mkdir(parents=True)
    (package / "lister-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lister\nVersion: 1.0\n")
    (package / "lister-1.0.dist-info" / "entry_points.txt").write_text("[genqual.sinks]\nlist = lister:ListSink\n")
    (package / "lister.py").write_text(
        "held = []\n"
        "class ListSink:\n"
        "    name = 'list'\n"
        "    @classmethod\n"
        "    def open(cls, url): return cls()\n"
        "    def send(self, records): held.extend(records); return len(records)\n"
        "    def close(self): pass\n"
    )
    monkeypatch.syspath_prepend(str(package))
    (delivery,) = push(spool, ["list://"]).deliveries
    assert (delivery.sent, delivery.failed) == (5, None)
    assert len(sys.modules["lister"].held) == 5
