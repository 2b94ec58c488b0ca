from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.records.redaction import redact, scheme, scrub

SECRET = "s3cr3t"

URLS = {
    f"postgresql://alice:{SECRET}@db.example/results": "postgresql://***@db.example/results",
    f"postgresql+psycopg://alice:{SECRET}@db:5432/r?sslmode=require": "postgresql+psycopg://***@db:5432/r?sslmode=require",
    f"postgresql://db/r?user=alice&password={SECRET}": "postgresql://db/r?user=alice&password=***",
    f"postgresql://alice:a/{SECRET}?b@c#d@db/r": "postgresql://***@db/r",
    f"hf://{SECRET}@models/x": "hf://***@models/x",
    f"s3://bucket/x?aws_secret_access_key={SECRET}&region=eu": "s3://bucket/x?aws_secret_access_key=***&region=eu",
    f"alice:{SECRET}@db/results": "***@db/results",
    "sqlite:////home/a@b/results.db": "sqlite:////home/a@b/results.db",
    "results.db": "results.db",
}


@pytest.mark.parametrize(("url", "shown"), URLS.items())
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact(shown) == shown


@given(st.text(min_size=1), st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))
def test_no_password_is_shown_however_badly_it_is_quoted(password: str, host: str) -> None:
    marked = f"<{password}>"
    assert "<" not in redact(f"postgresql://alice:{marked}@{host}/results")


@pytest.mark.parametrize(
    "message",
    [
        "FATAL: password authentication failed for alice:p%40ss",
        "connection to p@ss refused",
        "could not connect to postgresql://alice:p%40ss@db/r",
    ],
)
def test_a_driver_s_message_is_scrubbed_of_every_form_of_the_password(message: str) -> None:
    said = scrub(message, "postgresql://alice:p%40ss@db/r")
    assert "p%40ss" not in said
    assert "p@ss" not in said
    assert "***" in said


def test_scrubbing_leaves_other_words() -> None:
    assert scrub("no such table: records", "sqlite:///results.db") == "no such table: records"


@pytest.mark.parametrize(
    ("url", "name"), [("postgresql+psycopg://x", "postgresql"), ("SQLite:///x", "sqlite"), ("a/b.db", ""), ("", "")]
)
def test_the_scheme(url: str, name: str) -> None:
    assert scheme(url) == name
