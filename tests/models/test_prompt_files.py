"""Prompt files as people have them: marks, separators, packed, nested; read, or named by file and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from genqual.errors import BadInput
from genqual.models.chat import Message
from genqual.models.dataset import read_prompts

BOM = b"\xef\xbb\xbf"
LONG = "x" * 200_000


def written(folder: Path, name: str, content: bytes | str) -> str:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(file)


def said(messages: Sequence[Message]) -> str:
    return "|".join(f"{one['role']}:{one['content']}" for one in messages)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo\n"),
        ("a.csv", "prompt\none\ntwo\n"),
        ("a.csv", '"prompt"\r\n"one"\r\n"two"\r\n'),
        ("a.tsv", "prompt\tn\none\t1\ntwo\t2\n"),
        ("a.jsonl", '{"prompt": "one"}\n{"prompt": "two"}\n'),
        ("a.json", '["one", "two"]'),
        ("a.json", '{"data": [{"prompt": "one"}, {"prompt": "two"}]}'),
    ],
)
@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "marked"])
@pytest.mark.parametrize("packed", ["", ".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("upper", [False, True], ids=["lower", "upper"])
def test_every_file_is_read_marked_packed_or_in_capitals(
    tmp_path: Path, name: str, content: str, mark: bytes, packed: str, upper: bool
) -> None:
    data = mark + content.encode()
    packs: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    data = packs.get(packed, bytes)(data)
    name = f"{name}{packed}"
    assert list(read_prompts(written(tmp_path, name.upper() if upper else name, data))) == ["one", "two"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("note", [False, True], ids=["", "sep="])
def test_the_separator_of_a_table_is_found(tmp_path: Path, separator: str, note: bool) -> None:
    """What csv.writer of the standard library wrote, fields that hold other separators included."""
    file = tmp_path / "a.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        stream.write(f"sep={separator}\r\n" if note else "")
        rows = csv.writer(stream, delimiter=separator)
        rows.writerows([["n", "prompt", "z"], ["1", "a, b; c | d\te", "x"], ["2", "two\nlines", "y"]])
    assert list(read_prompts(f"{file}:prompt")) == ["a, b; c | d\te", "two\nlines"]


@pytest.mark.parametrize("order", ["utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize(
    ("name", "text"), [("x.txt", "a\nb\n"), ("x.csv", "id;prompt\n1;a\n2;b\n"), ("x.json", '["a", "b"]')]
)
def test_what_excel_calls_unicode_text_is_read(tmp_path: Path, name: str, text: str, order: str) -> None:
    mark = "" if order == "utf-16" else "\ufeff"  # "utf-16" writes its own
    assert list(read_prompts(written(tmp_path, name, (mark + text).encode(order)))) == ["a", "b"]


def test_a_file_put_behind_another_leaves_no_mark_inside(tmp_path: Path) -> None:
    assert list(read_prompts(written(tmp_path, "x.txt", BOM + b"a\n" + BOM + b"b\n"))) == ["a", "b"]
    assert list(read_prompts(written(tmp_path, "x.jsonl", BOM + b'"a"\n' + BOM + b'"b"\n'))) == ["a", "b"]


def test_a_header_of_one_plain_name_is_no_mistake(tmp_path: Path) -> None:
    assert list(read_prompts(written(tmp_path, "x.csv", "User's question (long)\na; b\n"))) == ["a; b"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.csv", "a;b,c\n1;2,3\n", "is a comma or a semicolon what separates its fields"),
        ("x.csv", "prompt\nHello, world\n", "line 2: more fields than the header has names; quote"),
        ("x.csv", "n,prompt\n1,Hello, world\n", "line 2: more fields"),
        ("x.csv", 'n,prompt\n1,a\n2,"Yes," he said\n', "line 3: .*write each of its own twice"),
        ("x.tsv", 'n\tprompt\n1\ta\n2\t"Yes\n3\tb\n', "line 4: unexpected end of data"),
        ("x.json", '"a"\n"b"\n', "looks like JSON Lines: name it .jsonl"),
        ("x.json", '"a"', "want a list of prompts, found a str"),
        ("x.json", '["a", 7]', "entry 2: want a string or an object, found 7"),
        ("x.jsonl.gz", b"no gzip", "cannot be read .Not a gzipped file"),
        ("x.jsonl.gz", gzip.compress(b'"a"\n' * 9000, mtime=0)[:-20], "cannot be read"),
        ("x.jsonl.xz", b"no xz", "cannot be read"),
        ("x.parquet", b"PAR1 no", "not a whole Parquet file"),
        ("x.md", "a\n", "a file of type .md, which genqual does not read; known are .jsonl"),
        ("x.jsonl.zst", "a\n", "a file of type .jsonl.zst"),
        ("x.xlsx", "a\n", "a file of type .xlsx"),
        ("plain", "a\n", "a file of type unknown"),
        ("x.txt", "a\nb\n".encode("utf-32"), "save it as UTF-8"),
        ("x.csv", "prompt\nh\u00e9\n".encode("latin-1"), "x.csv, after 0 good ones: .*save it as UTF-8 text"),
        ("x.csv.gz", b"prompt\na\n", "x.csv.gz, after 0 good ones: cannot be read"),
        ("x.txt", "a\nb\n".encode("utf-16-le"), "line 1: holds NUL, as UTF-16 without its mark does"),
        ("x.csv", "id:prompt\n1:a\n", "the one column 'id:prompt'; if ':' separates fields"),
        ("x.tsv", "prompt,id\na,1\n", "the one column 'prompt,id'; if ',' separates fields"),
        ("x.csv", "prompt,prompt\na,b\n", "two columns are called 'prompt'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes | str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        list(read_prompts(written(tmp_path, name, content)))


def test_a_cell_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    assert list(read_prompts(written(tmp_path, "x.csv", f'n,prompt\n1,"{LONG}"\n'))) == [LONG]


@pytest.mark.parametrize("name", ["none.parquet", "none.json", "none.jsonl.gz", "NONE.TSV"])
def test_a_missing_file_is_not_taken_for_a_dataset(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_prompts(str(tmp_path / name))


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    rows = {"prompt": ["one", "two"], "talk": [[{"role": "user", "content": "a"}]] * 2}
    pq.write_table(pa.table(rows), file)
    assert list(read_prompts(str(file))) == ["one", "two"]
    assert list(read_prompts(f"{file}:talk", render=said)) == ["user:a", "user:a"]
    monkeypatch.setattr("genqual.models.prompt_files.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install pyarrow"):
        read_prompts(str(file))


ROW = {
    "conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}],
    "a": {"b": {"c": "deep"}, "x.y": "dot"},
    "d.e": "key with a dot",
    "messages": [{"role": "user", "content": "m"}],
}


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (":conversations.0.value", "h"),
        (":conversations.-1.value", "g"),
        (":a.b.c", "deep"),
        (":d.e", "key with a dot"),
        (":messages", "user:m"),
        (":conversations", "user:h"),
        (":messages.0.content", "m"),
        ("", "user:m"),
    ],
)
def test_a_nested_field_is_named_by_its_path(tmp_path: Path, column: str, wanted: str) -> None:
    for name, text in (("x.jsonl", json.dumps(ROW)), ("x.json", json.dumps([ROW]))):
        (found,) = read_prompts(written(tmp_path, name, text) + column, render=said)
        assert found == wanted
        assert found.rendered is (wanted.startswith("user:"))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("a.b.z", r"no column 'a.b.z'; a.b has c"),
        ("messages.7.content", "messages has 1 entries"),
        ("a.b.c.d", "a.b.c has str"),
        ("z", "no column 'z'; it has conversations, a, d.e, messages"),
        ("a", "column 'a' is dict, not text"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(tmp_path: Path, column: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        list(read_prompts(written(tmp_path, "x.jsonl", json.dumps(ROW)) + f":{column}", render=said))


def test_a_row_may_be_a_conversation(tmp_path: Path) -> None:
    talk = json.dumps([{"role": "user", "content": "a"}])
    assert list(read_prompts(written(tmp_path, "x.jsonl", talk), render=said)) == ["user:a"]
    assert list(read_prompts(written(tmp_path, "x.json", talk), render=said)) == ["user:a"]
    assert list(read_prompts(written(tmp_path, "y.json", json.dumps({"messages": json.loads(talk)})), render=said)) == [
        "user:a"
    ]


def test_a_conversation_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="which the chat template of a model makes a prompt of"):
        list(read_prompts(written(tmp_path, "x.jsonl", json.dumps({"messages": ROW["messages"]}))))


def test_a_prompt_knows_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "x.jsonl", '"a"\n\n"b"\n')
    assert [one.where for one in read_prompts(file)] == [f"{file}, line 1", f"{file}, line 3"]
