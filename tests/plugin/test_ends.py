"""What is asked for at the end of a run is checked before it begins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from genqual.session import option_types


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("page.pdf", "expected the suffix .html, .csv, .json|ends in .html, .csv, .json"),
        ("no/such/page.html", "directory .* does not exist"),
    ],
)
def test_a_report_that_could_not_be_written(text: str, said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        option_types.page(text)


def test_a_page_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(option_types, "find_spec", lambda _: None)
    with pytest.raises(argparse.ArgumentTypeError, match=r"-m pip install 'altair>=\S+ 'jinja2>=\S+ 'vl-conv"):
        option_types.page(f"{tmp_path}/page.html")
    assert option_types.page(f"{tmp_path}/rows.csv").endswith("rows.csv")


def test_a_comparison_with_nothing(tmp_path: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"none\.db does not exist"):
        option_types.records(f"{tmp_path}/none.db#class=x")
    for text in ("published#class=gaudi2", "postgresql://host/db", str(tmp_path)):
        assert option_types.records(text) == text
