"""What a page says of signatures: believed only with the key, and only for the records that were signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from genqual.analysis.report.signed import signatures
from genqual.errors import BadInput
from genqual.storage.sources import load
from tests.results.make import record
from tests.results.test_trust import signed, state

__all__ = ["state"]


def test_a_signature_counts_with_its_key(state: Path) -> None:
    session, records = signed(state), load(str(state / "spool"))
    ours, theirs = (state.parent / f"{name}.pub" for name in ("ours", "theirs"))
    assert signatures([session], [], records)["run-1"].endswith("key not checked")
    assert signatures([session], [ours], records)["run-1"].endswith(", verified")
    assert "does not hold" in signatures([session], [theirs], records)["run-1"]


def test_a_record_that_was_not_signed_is_counted(state: Path) -> None:
    session, records = signed(state), [*load(str(state / "spool")), record(attempt=9)]
    said = signatures([session], [state.parent / "ours.pub"], records)["run-1"]
    assert said.endswith("but 1 records here are not among those signed")


def test_a_changed_record_breaks_it(state: Path) -> None:
    session = signed(state)
    session.write_bytes(session.read_bytes().replace(b'"attempt":2', b'"attempt":7'))
    said = signatures([session], [state.parent / "ours.pub"], [])["run-1"]
    assert said.startswith("signature does not hold")


def test_a_file_of_records_is_not_a_signature(state: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.jsonl").write_bytes(record().to_bytes())
    with pytest.raises(BadInput, match="it is not signed"):
        signatures([tmp_path / "plain.jsonl"], [], [])
