"""The page as a file: size, what it holds, and what it never holds. The browser's tests are in test_browser.py."""

from __future__ import annotations

import json
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest

from genqual.analysis.published.prices import prices
from genqual.analysis.report import page as page_module
from genqual.analysis.report.page import page
from genqual.analysis.report.rows import as_columns, rows
from genqual.analysis.report.write import write
from genqual.errors import BadInput
from genqual.records.record import Record
from tests.results.make import record, timing
from tests.results.report.conftest import measured
from tests.results.test_cli import ran


def many(count: int) -> list[Record]:
    return [
        measured(
            batch=1 + n % 64,
            length=2 ** (5 + n % 6),
            scale=1 + n / 999,
            model=f"model-{n % 40}",
            engine=f"engine-{n % 7}",
            class_id=f"class-{n % 9}",
            options={"variant": n},
            created=f"2026-05-01T12:{n // 60 % 60:02}:{n % 60:02}.000000Z",
        )
        for n in range(count)
    ]


def test_two_thousand_records_stay_below_3_mb() -> None:
    made = page(many(2000), prices(), sources=["results.db"])
    assert len(made.encode()) < 3e6
    assert len(re.findall(r'<tr id="r\d', made)) == 2000


def test_more_than_fit_are_counted_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "LIMIT", 10)
    made = page(many(15), prices())
    assert len(re.findall(r'<tr id="r\d', made)) == 10
    assert "the newest 10 of 15" in made


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def test_it_links_to_itself_alone(html: str) -> None:
    parser = _Links()
    parser.feed(html)
    outside = [link for link in parser.found if not link.startswith(("#", "data:,"))]
    assert outside == []
    targets = {link[1:] for link in parser.found if link.startswith("#")}
    assert targets - set(parser.ids) == set()
    assert len(parser.ids) == len(set(parser.ids))


def test_the_policy_allows_no_connection(html: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert "http" not in policy[1]


def test_the_bloom_matrix_says_oom(html: str) -> None:
    matrix = html[html.index('id="matrix"') : html.index('id="cost"')]
    line = re.search(r"8 x a100-80gb, deepspeed-inference tp8, fp16</th>(.*?)</tr>", matrix, re.DOTALL)
    assert line is not None
    cells = re.findall(r'<td class="n(?: oom)?">([^<]*)</td>', line[1])
    assert cells == ["44.02", "5.70", "3.01", "1.68", "1.00", "0.69", "OOM", ""]


def test_claims_doubts_and_sources_stand_in_the_page(html: str) -> None:
    for words in (
        "2.89x",
        "unlike: 8 devices against 1",
        "37.21 %",
        "probably the BLOOM post&#39;s measurement reused",
    ):
        assert words in html
    assert "habana-gaudi-2-bloom" in html
    assert "pytest -m xeon --benchmark" in html


def test_no_model_is_on_two_kinds_of_hardware_without_the_fields_that_differ(html: str) -> None:
    part = html[html.index('id="comparability"') : html.index('id="claims"')]
    assert re.search(r"bloomz-7b</th><td>a100-80gb</td><td>gaudi2</td><td>2</td>", part)


def test_waivers_are_listed_with_their_dates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "waivers").mkdir()
    (tmp_path / "waivers" / "xeon.toml").write_text(
        '[[waiver]]\ntest = "a::b"\nsays = "nrms .*"\nclass = "xeon-6-*"\nversions = {torch = "<2.14"}\n'
        'issue = "<b>upstream</b>"\nexpires = 2026-01-01\n'
    )
    monkeypatch.setattr(page_module, "data_dir", lambda _: tmp_path)
    made = page([measured()], prices(), today=date(2026, 2, 1))
    assert "&lt;b&gt;upstream&lt;/b&gt;" in made
    assert "2026-01-01 (expired)" in made
    assert "<td>nrms .*</td><td>xeon-6-*, torch &lt;2.14</td>" in made


def test_the_scripts_rows_are_the_rows() -> None:
    found = rows(many(5), prices())
    packed = json.loads(json.dumps(as_columns(found)))
    texts, columns = packed["texts"], packed["columns"]
    assert [texts[i] for i in columns["model"]] == [row.model for row in found]
    assert columns["tokens_per_s"] == [pytest.approx(row.tokens_per_s, rel=1e-5) for row in found]


def test_a_table_instead_of_a_page(tmp_path: Path) -> None:
    made = [measured(model="=1+1"), record(metrics=(timing(),), model="plain", weights="b" * 64)]
    write(tmp_path / "rows.csv", made, prices(), sources=[], title="")
    text = (tmp_path / "rows.csv").read_text()
    assert "'=1+1" in text
    write(tmp_path / "rows.json", made, prices(), sources=[], title="")
    assert {one["model"] for one in json.loads((tmp_path / "rows.json").read_text())} == {"=1+1", "plain"}


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(BadInput, match=r"x\.csv: cannot be written: Is a directory"):
        write(tmp_path / "x.csv", [measured()], prices(), sources=[], title="")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert ran("report", "--published") == 0
    assert "genqual.html: 80 configurations" in capsys.readouterr().out
    assert ran("report", "-o", "page.pdf") == 4
    assert "ends in .html, .csv, .json" in capsys.readouterr().err
    assert ran("report", "-o", "no/page.html") == 4
    assert "there is no directory" in capsys.readouterr().err
    assert ran("report", "published#class=gaudi2", "--prices", "none.toml") == 4
    assert "none.toml: cannot be read (No such file" in capsys.readouterr().err
