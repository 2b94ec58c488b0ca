"""A baseline file is read whole and unambiguous or not at all."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.errors import BadInput
from genqual.gate.baseline_file import Subject, find, read, schema
from tests.performance.files import CLASS_ID, SUBJECT, SUBJECT_KEY, data, write

COMMITTED = Path(__file__).resolve().parents[2] / "baselines" / "latency"


def test_a_file_is_found_by_class_and_an_entry_by_content(tmp_path: Path) -> None:
    write(tmp_path, data())
    found = find(tmp_path, CLASS_ID)
    assert found is not None
    entry = found.entry(SUBJECT.key)
    assert entry is not None
    assert [launch.z for launch in entry.launches] == [0.81, 0.82]
    assert entry.anchor.provenance.reason == "first baseline"
    assert found.fingerprint["flags"] == ["amx", None]
    assert found.entry("0" * 64) is None


def test_a_class_never_measured_has_no_file(tmp_path: Path) -> None:
    assert find(tmp_path, CLASS_ID) is None


def test_the_key_is_the_hash_that_another_implementation_makes() -> None:
    assert SUBJECT.key == SUBJECT_KEY


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "ttft"},
        {"engine": "deepspeed-inference"},
        {"dtype": "fp32"},
        {"ranks": 2},
        {"cores_per_rank": 2},
        {"weights": ("a" * 64, "b" * 64)},
        {"batch": 2},
        {"input_length": 64},
        {"new_tokens": 65},
    ],
)
def test_whatever_changes_the_number_changes_the_key(change: dict[str, Any]) -> None:
    other = Subject(**(SUBJECT.model_dump() | change))
    assert other.key != SUBJECT.key
    assert set(change) <= set(Subject.model_fields)


def test_the_list_above_is_complete() -> None:
    mark = test_whatever_changes_the_number_changes_the_key.pytestmark[0]
    assert {name for change in mark.args[1] for name in change} == set(Subject.model_fields)


def edited(path: Any, value: Any) -> dict[str, Any]:
    """The file's data with the value at `path` replaced, or removed when it is ...."""
    found = data()
    *parents, last = [SUBJECT_KEY if part == "KEY" else part for part in path]
    place = found
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return found


ENTRY_AT = ("entries", "KEY")
LAUNCH_AT = (*ENTRY_AT, "launches", 0)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("version",), 2, "version 2, this genqual reads up to 1; install a newer genqual"),
        (("version",), 0, "no version"),
        (("version",), True, "no version"),
        (("version",), "1", "no version"),
        (("version",), ..., "no version"),
        (("class_id",), "another", "baselines of another, not of xeon-6-2c-amx"),
        (("fingerprint",), ..., "fingerprint: Field required"),
        (("surprise",), 1, "surprise: Extra inputs"),
        ((*ENTRY_AT, "subject", "batch"), 2, "edited by hand"),
        ((*ENTRY_AT, "subject", "batch"), 0, "batch"),
        ((*ENTRY_AT, "launches"), [], "launches"),
        ((*ENTRY_AT, "anchor"), ..., "anchor: Field required"),
        ((*ENTRY_AT, "provenance", "reason"), "", "reason"),
        ((*ENTRY_AT, "provenance", "date"), "2026-11-21T12:00:00", "date"),
        ((*ENTRY_AT, "provenance", "commit"), "HEAD", "commit"),
        ((*ENTRY_AT, "admission", "read_bytes_per_s", "low"), 2e10, "above high"),
        ((*LAUNCH_AT, "z"), "0.8", "z: Input should be a valid number"),
        ((*LAUNCH_AT, "z"), None, "z: Input should be a valid number"),
        ((*LAUNCH_AT, "z"), math.nan, "NaN is not a number"),
        ((*LAUNCH_AT, "z"), -math.inf, "-Infinity is not a number"),
        ((*LAUNCH_AT, "p50"), 0.0, "p50"),
        ((*LAUNCH_AT, "p50"), 0.5, "must not fall"),
        ((*LAUNCH_AT, "z"), 0.8, "its digest is not that of its content; edited by hand?"),
        ((*ENTRY_AT, "digest"), "0", "edited by hand"),
        ((*ENTRY_AT, "frozen", "hidden"), 500, "hidden"),
        ((*LAUNCH_AT, "steps"), 0, "steps"),
        ((*LAUNCH_AT, "steps"), 1.5, "steps"),
        ((*LAUNCH_AT, "cpu_share"), -0.1, "cpu_share"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, path: Any, value: Any, complaint: str) -> None:
    written = write(tmp_path, edited(path, value))
    with pytest.raises(BadInput) as caught:
        find(tmp_path, CLASS_ID)
    assert complaint in str(caught.value)
    assert str(written) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"version": 1', '"version": 1, "version": 1', "'version' stands twice"),
        ('"z": 0.81', '"z": 0.81, "z": 0.5', "'z' stands twice"),
        ('"cores": 2', '"cores": 1e999', "too large"),
        ('"cores": 2', '"cores": ' + "1" * 5000, "limit"),
        ('"cores": 2', '"cores": ' + "[" * 100_000, "recursion"),
        ('"cores": 2', '"cores": 02', "delimiter"),
    ],
)
def test_ambiguous_json_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = json.dumps(data())
    assert old in text
    path = write(tmp_path, text.replace(old, new, 1))
    with pytest.raises(BadInput, match=complaint):
        read(path)


@given(st.data())
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, draw: Any) -> None:
    text = json.dumps(data())
    path = write(tmp_path_factory.mktemp("cut"), text[: draw.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(BadInput, match="restore it from version control"):
        read(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{CLASS_ID}.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(BadInput, match="UTF-8"):
        read(path)


@pytest.mark.parametrize("text", ["null", "[]", "1", '"x"', "{}"])
def test_other_json_is_no_baseline(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="no version"):
        read(write(tmp_path, text))


@pytest.mark.parametrize("class_id", ["", "..", "../x", "a/b", "A", "-x", "schema", "x\n"])
def test_a_class_id_is_no_path(tmp_path: Path, class_id: str) -> None:
    with pytest.raises(BadInput, match="hardware class"):
        find(tmp_path, class_id)


def test_a_missing_directory_is_not_a_missing_baseline(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such directory"):
        find(tmp_path / "typo", CLASS_ID)


def test_reading_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path, data())
    before = path.read_bytes(), path.stat().st_mtime_ns
    find(tmp_path, CLASS_ID)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_copy_under_another_class_is_refused(tmp_path: Path) -> None:
    shutil.copy(write(tmp_path, data()), tmp_path / "other.json")
    with pytest.raises(BadInput, match="copied or renamed"):
        find(tmp_path, "other")


def test_the_published_schema_is_that_of_the_reader() -> None:
    published = json.loads((COMMITTED / "schema.json").read_text(encoding="utf-8"))
    assert published == schema(), "write genqual.gate.baseline_file.schema() to baselines/latency/schema.json"
    assert published["additionalProperties"] is False


def test_every_committed_file_can_be_read() -> None:
    for path in set(COMMITTED.glob("*.json")) - {COMMITTED / "schema.json"}:
        assert find(COMMITTED, path.stem) is not None
