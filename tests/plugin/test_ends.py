"""What is asked for at the end of a run is checked before it begins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from genqual.session import options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("page.pdf", "ends in .html, .csv, .json"),
        ("no/such/page.html", "there is no directory"),
    ],
)
def test_a_report_that_could_not_be_written(text: str, said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        options._page(text)


def test_a_page_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    with pytest.raises(argparse.ArgumentTypeError, match=r"-m pip install 'altair>=\S+ 'jinja2>=\S+ 'vl-conv"):
        options._page(f"{tmp_path}/page.html")
    assert options._page(f"{tmp_path}/rows.csv").endswith("rows.csv")


def test_a_comparison_with_nothing(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"there is no .*none\.db"):
        options._records(f"{tmp_path}/none.db#class=x")
    for text in ("published#class=gaudi2", "postgresql://host/db", str(tmp_path)):
        assert options._records(text) == text
