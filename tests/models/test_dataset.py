"""Dataset mode: what is read, what is refused by line, and a killed run that goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genqual.errors import BadInput
from genqual.models.dataset import PairWriter, read_prompts

FILES = {
    "a.txt": "one\n\n  two  \nthree",
    "a.jsonl": '"one"\n\n{"prompt": "  two  ", "n": 2}\n{"only": "three"}\n',
    "b.jsonl": '{"q": "one"}\n{"q": "  two  "}\n{"q": "three"}\n',
    "a.csv": 'n,content\n1,one\n2,"  two  "\n3,three\n',
    "b.csv": "q,content\none,x\n  two  ,y\nthree,z\n",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "column"),
    [
        ("a.txt", None),
        ("a.jsonl", None),
        ("b.jsonl", None),
        ("b.jsonl:q", None),
        ("a.csv", None),
        ("a.csv:content", None),
        ("b.csv:q", None),
        ("b.csv", "q"),
    ],
)
def test_every_kind_of_file(files: Path, source: str, column: str | None) -> None:
    assert list(read_prompts(f"{files}/{source}", column=column)) == ["one", "  two  ", "three"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_jsonl_carries_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = tmp_path_factory.mktemp("any") / "x.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    assert list(read_prompts(str(file))) == texts


@pytest.mark.parametrize(
    ("name", "content", "column", "told"),
    [
        ("x.jsonl", b'"a"\n{"prompt"\n', None, "line 2: not JSON"),
        ("x.jsonl", b'"a"\n\n[1]\n', None, "line 3: want a string or an object"),
        ("x.jsonl", b'{"a": "1", "b": "2"}\n', None, "line 1: which column\\? It has a, b"),
        ("x.jsonl", b'{"a": "1", "b": "2"}\n', "c", "line 1: no column 'c'; it has a, b"),
        ("x.jsonl", b'{"prompt": 7}\n', None, "line 1: column 'prompt' is int, not text"),
        ("x.jsonl", b'"good"\n"\\ud800"\n', None, "after 1 good ones: .*surrogates"),
        ("x.csv", b"a,b\n1,2\n", None, "line 2: which column"),
        ("x.csv", b"a,prompt\n1\n", None, "line 2: column 'prompt' is NoneType"),
        ("x.txt", b"good\n\xff\n", None, "save it as UTF-8"),
        ("x.txt", b"a\n", "c", "has no column"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, content: bytes, column: str | None, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=told):
        list(read_prompts(str(tmp_path / name), column=column))


def test_what_is_missing_is_said_before_the_first_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_prompts(str(tmp_path / "x.jsonl:q"))
    with pytest.raises(BadInput, match="has no split"):
        read_prompts(str(tmp_path / "x.jsonl"), split="test")
    monkeypatch.setattr("genqual.models.dataset.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install datasets"):
        read_prompts("tldr_news")


def test_a_dataset_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        if split == "nope":
            raise ValueError(f'Unknown split "{split}".\nmore')
        return [{"content": "one", "category": 1}, {"content": "two", "category": 2}]

    stand_in = ModuleType("datasets")
    monkeypatch.setattr(stand_in, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    monkeypatch.setattr("genqual.models.dataset.find_spec", lambda name: object())
    assert list(read_prompts("JulesBelveze/tldr_news")) == ["one", "two"]
    assert asked == [("JulesBelveze/tldr_news", "train")]
    with pytest.raises(BadInput, match=r'split nope: `datasets` cannot load it \(Unknown split "nope"\.\)'):
        read_prompts("tldr_news", split="nope")


def test_a_field_of_several_lines_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'prompt\r\n"one\r\ntwo"\r\nthree\r\n')
    assert list(read_prompts(str(tmp_path / "x.csv"))) == ["one\r\ntwo", "three"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_pair_is_one_line(tmp_path: Path) -> None:
    with PairWriter(tmp_path / "new" / "pairs.jsonl", "f") as writer:
        assert writer.next_index == 0
        writer.append("naïve\nprompt", [1, 2], [3], "text\u2028more")
        assert writer.next_index == 1
        raw = (tmp_path / "new" / "pairs.jsonl").read_text(encoding="utf-8")  # flushed before it is closed
    assert raw.count("\n") == 1
    assert json.loads(raw) == {
        "index": 0,
        "fingerprint": "f",
        "prompt": "naïve\nprompt",
        "input_ids": [1, 2],
        "tokens": [3],
        "text": "text\u2028more",
    }


@pytest.mark.parametrize("torn", [b'{"index": 2, "finger', b'{"index": 2, "fingerprint": "f"}', b"\x00\x00"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "pairs.jsonl"
    with PairWriter(path, "f") as writer:
        writer.append("a", [1], [2], "b")
        writer.append("c", [1], [2], "d")
    with path.open("ab") as stream:
        stream.write(torn)
    with PairWriter(path, "f") as writer:
        assert writer.next_index == 2
        writer.append("e", [1], [2], "f")
    assert [(pair["index"], pair["prompt"]) for pair in lines(path)] == [(0, "a"), (1, "c"), (2, "e")]


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    said = -1
    for _ in range(2):
        command = [sys.executable, str(Path(__file__).with_name("write_pairs.py")), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            first = int(run.stdout.readline())
            assert first >= said + 1, "a pair was written twice"
            for _ in range(200):
                said = int(run.stdout.readline())
            run.kill()
            rest = run.stdout.read().split()
            said = int(rest[-1]) if rest else said
        assert run.returncode == -9
    with PairWriter(path, "run 1") as writer:
        assert writer.next_index >= said + 1, "a pair that was acknowledged is lost"
        count = writer.next_index
    assert [pair["index"] for pair in lines(path)] == list(range(count))
    assert {pair["prompt"] for pair in lines(path)} == {f"prompt {n} é" for n in range(count)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"index": 0, "fingerprint": "other"}\n', "holds pairs of other, this run is f"),
        ('{"index": 1, "fingerprint": "f"}\n', "pair 1 is out of order"),
        ('{"index": 0, "fingerprint": "f"}\nnotes\n{"index": 2, "fingerprint": "f"}\n', "line 2: not a pair"),
        ('{"some": "data"}\n', "line 1: not a pair"),
        ("[]\n", "line 1: not a pair"),
    ],
)
def test_another_file_is_never_written_to(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(BadInput, match=told):
        PairWriter(path, "f")
    assert path.read_text() == content
