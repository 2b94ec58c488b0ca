"""`genqual compare` as a person uses it: sides, forms, refusals that name the fields."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from genqual.analysis.compare import compare
from genqual.analysis.compare_files import as_csv
from genqual.storage.spool import Spool
from tests.results.make import record, timing
from tests.results.test_cli import ran
from tests.results.test_compare_nodes import node


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    spool = Spool("records")
    for one in [record(), record(run="run-2", class_id="h100", device="cuda"), *node("node-a"), *node("node-b", 2.0)]:
        spool.write(one)
    return tmp_path


def test_published_tables_are_compared_by_class(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("compare", "published#class=a100-80gb", "published#class=gaudi2", "--csv") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = sorted(f"{line['model']} {float(line['speedup']):.2f}" for line in lines if line["speedup"])
    assert found == [
        *(
            "bloomz-176b 1.18",
            "bloomz-176b 1.42",
            "bloomz-7b 1.99",
            "bloomz-7b 2.74",
            "bloomz-7b 3.28",
            "bloomz-7b 3.29",
        ),
    ]
    assert all("unlike: hpu_graphs None against True" in line["notes"] for line in lines if line["speedup"])


def test_two_generations_are_never_mixed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("compare", "published#class=a100-80gb&model=bloomz-7b", "published#class=gaudi1", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    pairs = {(row["a"], row["b"]) for row in found["rows"]}
    assert pairs == {(2.417, 3.029), (2.119, 2.865), (2.417, 3.321), (2.119, 2.387)}


def test_several_sides_are_each_put_beside_the_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("compare", "records#run=run-1", "records#class=h100", "records", "--published", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["b"]["name"] for one in found] == ["records#class=h100", "records", "published"]
    assert {one["a"]["name"] for one in found} == {"records#run=run-1"}


def test_nodes_are_selected_and_ranked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("compare", "records#node=node-a", "records#node=node-b", "--csv") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {float(line["speedup"]) for line in lines} == {0.5}
    assert ran("compare", "records", "--by", "node") == 0
    text = capsys.readouterr().out
    assert text.index("node-a") < text.index("node-b")
    assert "records name no node" in text
    for form in ("--csv", "--json", "--markdown"):
        assert ran("compare", "records", "--by", "node", form) == 0
        assert "node-a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["records"], "Missing argument 'B'"),
        (["records#node=zzz", "records"], "node-a, node-b"),
        (["published#colour=red", "records"], "no selector 'colour'"),
        (["published#class=zzz", "records"], "there are the classes"),
    ],
)
def test_what_is_not_there_is_said(here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("compare", *words) == 4
    assert said in capsys.readouterr().err


def test_the_fields_that_differ_are_named() -> None:
    ours, theirs = record(input_length=32), record(input_length=128, dtype="fp32", class_id="h100", device="cuda")
    found = compare([ours], [theirs])
    assert found.rows == ()
    words = "dtype.dtype bf16 against fp32; workload.input_length 32 against 128"
    assert found.only_a[0].why.endswith(f"the closest row there differs in {words}")


def test_a_metric_of_another_definition_names_both() -> None:
    a = record(metrics=(timing(definition="with the prompt"),))
    b = record(metrics=(timing(definition="without it"),), class_id="h100", device="cuda")
    refused = {row.refused for row in compare([a], [b]).rows}
    assert refused == {"tpot is not the same metric: definition 'with the prompt' against 'without it'"}


def test_across_workloads_only_efficiency_stands_side_by_side(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def efficient(name: str, mbu: float) -> None:
        metric = timing("mbu", (mbu,), unit="1", better="higher")
        Spool(name).write(record(model=name, weights=name[0] * 64, metrics=(timing(), metric), run=name))

    efficient("a", 0.4)
    efficient("b", 0.8)
    for form in ([], ["--markdown"]):
        assert ran("compare", "a", "b", *form) == 0
        text = capsys.readouterr().out
        assert "Not comparable: unlike workloads" in text
        assert "40.0 %" in text
        assert "80.0 %" in text
        assert "x " not in text[text.index("Not comparable") :]


def test_csv_holds_no_formula() -> None:
    name = '=HYPERLINK("http://x","y")'
    text = as_csv([compare([record(model=name)], [record(model=name, class_id="h100")], ("+A", "@B"))])
    (line,) = csv.DictReader(io.StringIO(text))
    assert (line["model"], line["a"], line["b"]) == (f"'{name}", "'+A", "'@B")
    assert float(line["value_a"]) == 0.02
