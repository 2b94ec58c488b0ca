from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from genqual.analysis.compare import load
from genqual.errors import BadInput
from genqual.storage.push import push
from genqual.storage.sinks.base import SinkFailed
from genqual.storage.spool import Spool
from tests.results.make import record

HELD = [
    record(run="run-a", created="2026-05-03T00:00:00.000000Z"),
    record(run="run-b", created="2026-05-01T00:00:00.000000Z", class_id="h100", device="cuda"),
    record(run="run-c", created="2026-05-02T00:00:00.000000Z", engine="deepspeed-inference"),
]
OLDEST_FIRST = [HELD[1], HELD[2], HELD[0]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same records as a spool, a database, a file of lines; and one record alone. We stand beside them."""
    spool = Spool(tmp_path / "state" / "spool")
    for one in HELD:
        spool.write(one)
    assert push(spool, [f"sqlite:///{tmp_path}/results.db"]).ok
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(one.to_bytes() for one in HELD) + b"\n\n")
    (tmp_path / "one.json").write_bytes(HELD[0].to_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


SPECS = ["results.db", "sqlite:///results.db", "state/spool", "state", "records.jsonl"]


@pytest.mark.parametrize("spec", SPECS)
def test_every_form_gives_the_same_records_oldest_first(place: Path, spec: str) -> None:
    assert load(spec) == OLDEST_FIRST


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("selector", "runs"),
    [
        ("run=run-a", ["run-a"]),
        ("run=run-", ["run-b", "run-c", "run-a"]),
        ("class=h100", ["run-b"]),
        ("class_id=h100&device=cuda", ["run-b"]),
        ("engine=deepspeed-inference", ["run-c"]),
        ("model=llama-30m&dtype=bf16&engine=transformers", ["run-b", "run-a"]),
    ],
)
def test_a_selector_means_the_same_everywhere(place: Path, spec: str, selector: str, runs: list[str]) -> None:
    assert [one.run for one in load(f"{spec}#{selector}")] == runs


def test_an_absolute_url_and_a_single_file(place: Path) -> None:
    assert load(f"sqlite:///{place}/results.db") == OLDEST_FIRST
    assert load("one.json") == [HELD[0]]


def test_a_name_with_a_hash_in_it_is_a_name(place: Path) -> None:
    (place / "a#b").mkdir()
    (place / "a#b" / "one.json").write_bytes(HELD[0].to_bytes())
    assert load("a#b") == [HELD[0]]
    assert load("a#b#run=run-a") == [HELD[0]]


def test_a_record_that_stands_twice_counts_once(place: Path) -> None:
    (place / "twice.jsonl").write_bytes(b"\n".join([HELD[0].to_bytes()] * 3))
    assert load("twice.jsonl") == [HELD[0]]


def test_a_pretty_printed_file_is_one_record(place: Path) -> None:
    import json

    (place / "pretty.json").write_text(json.dumps(json.loads(HELD[0].to_bytes()), indent=2))
    assert load("pretty.json") == [HELD[0]]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nowhere.db", r"nowhere\.db: No such file or directory\. Give a database"),
        ("state/nothing", "No such file"),
        ("results.db#colour=red", "no selector 'colour'; there are class, "),
        ("results.db#run=zzz", r"none of its 3 records has run=zzz; it holds runs: run-\w, run-\w, run-\w; classes: "),
        ("state/spool#class=gaudi2", "none of its 3 records has class_id=gaudi2"),
        ("empty", "no record there"),
        ("empty.json", "no record there"),
        ("torn.json", r"torn\.json, line 1: not a record"),
        ("future.jsonl", r"future\.jsonl, line 2: .*upgrade genqual"),
        ("binary", "line 1: not a record"),
        ("mongodb://alice:s3cr3t@db/x", r"mongodb://\*\*\*@db/x"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_next_step(place: Path, spec: str, words: str) -> None:
    (place / "empty").mkdir()
    (place / "empty.json").write_text("")
    (place / "torn.json").write_bytes(HELD[0].to_bytes()[:-5])
    (place / "future.jsonl").write_bytes(HELD[0].to_bytes() + b'\n{"schema":"genqual/2.0"}\n')
    (place / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(BadInput, match=words) as caught:
        load(spec)
    assert "s3cr3t" not in str(caught.value)


def test_an_altered_row_is_refused(place: Path) -> None:
    connection = sqlite3.connect("results.db")
    connection.execute("update records set body = replace(body, 'run-a', 'run-z')")
    connection.commit()
    connection.close()
    with pytest.raises(SinkFailed, match="changed after writing"):
        load("results.db")


def test_reading_changes_nothing(place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    for spec in SPECS:
        load(spec)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()} == before
