"""Parquet: the same records read back, by query and by the newest run, and nothing altered goes unnoticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from genqual.commands.export import export
from genqual.errors import BadInput
from genqual.storage import parquet
from genqual.storage.sinks.base import Query, newest
from genqual.storage.sinks.sql import SqlSink
from genqual.storage.sources import load
from tests.results.make import record, verdict
from tests.results.test_sinks import HELD, QUERIES

MADE = [
    record(run=f"run-{day}", batch=batch, class_id=name, created=f"2026-05-{day:02}T00:00:00.000000Z")
    for day in (3, 2, 1)
    for batch in (1, 2)
    for name in ("xeon-a", "xeon-b")
] + [verdict(run="run-1")]


@pytest.fixture(params=["newest first", "oldest first"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parquet, "GROUP", 3)  # several groups: which are decoded is what this is about
    made = MADE if request.param == "newest first" else list(reversed(MADE))
    assert parquet.write(tmp_path / "r.parquet", made) == len(MADE)
    return tmp_path / "r.parquet"


def test_records_come_back_identical_and_oldest_first(file: Path) -> None:
    expected = sorted(MADE, key=lambda one: (one.created, one.id))
    assert [one.to_bytes() for one in load(str(file))] == [one.to_bytes() for one in expected]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_the_file_and_the_query_itself_choose_the_same_records(
    tmp_path: Path, query: Query, expected: set[str]
) -> None:
    parquet.write(tmp_path / "r.parquet", HELD)
    assert {one.run for one in parquet.read(tmp_path / "r.parquet", query)} == expected


@pytest.mark.parametrize("query", [Query(), Query(class_id="xeon-a"), Query(run="run-2"), Query(class_id="none")])
def test_the_newest_run_of_each_configuration_is_that_of_the_plain_rule(file: Path, query: Query) -> None:
    plain = {one.id for one in newest(one for one in MADE if query.matches(one))}
    wanted = Query(run=query.run, class_id=query.class_id, newest=True)
    assert {one.id for one in parquet.read(file, wanted)} == plain


def test_export_from_a_database_and_back(tmp_path: Path) -> None:
    SqlSink.open(f"sqlite:///{tmp_path}/r.db").send(MADE)
    for name in ("r.parquet", "r.jsonl"):
        done = CliRunner().invoke(export, [f"{tmp_path}/r.db", f"{tmp_path}/{name}"])
        assert done.exit_code == 0, done.output
        assert {one.id for one in load(f"{tmp_path}/{name}")} == {one.id for one in MADE}
    wrong = CliRunner().invoke(export, [f"{tmp_path}/r.db", f"{tmp_path}/r.csv"])
    assert "give a name that ends in .parquet or .jsonl" in str(wrong.exception)


def test_a_row_that_was_altered_is_not_read(file: Path) -> None:
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["body"] = rows[0]["body"].replace("0.02", "0.01")
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    with pytest.raises(BadInput, match="changed after writing"):
        load(str(file))


def test_another_parquet_file_is_a_clear_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(BadInput, match="no Parquet file of records"):
        load(f"{tmp_path}/other.parquet")


def test_without_pyarrow_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"needs pyarrow, which is not installed: .+ -m pip install 'pyarrow>="):
        load(str(file))
