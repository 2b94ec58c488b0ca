"""Every property kills the faults that are its own to find: put into a live engine, judged by the real suite."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.faults import CATALOGUE
from genqual.faults.matrix.store import FAULT_FREE, Store
from genqual.faults.matrix.tables import FaultMatrix
from tests.faults.finders import ELSEWHERE, FINDERS, where
from tests.here import CPU
from tests.plugin.suite import ROOT, suite


def properties() -> set[str]:
    """The tests of the suite, read from its source."""
    return {
        node.name
        for file in (ROOT / "suites" / "conformance").glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_no_property_is_without_a_fault_that_it_must_find() -> None:
    assert properties() == FINDERS.keys() | ELSEWHERE.keys()
    assert all(faults and CATALOGUE.keys() >= set(faults) for _, *faults in FINDERS.values())


@pytest.mark.heavy
@pytest.mark.parametrize("run", list(dict.fromkeys(run for run, *_ in FINDERS.values())))
def test_each_property_finds_its_fault_and_honest_runs_pass(run: str, tmp_path: Path) -> None:
    store = tmp_path / "cells.jsonl"
    engine, ranks, dtype = where(run)
    own = [(test, fault) for test, (place, *faults) in FINDERS.items() if place == run for fault in faults]
    names = ",".join([FAULT_FREE, *dict.fromkeys(fault for _, fault in own)])
    done = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "faults", "matrix", "--models", "llama-tiny", "--dtypes", dtype,
         "--engines", f"{engine}:{ranks}", "--store", str(store), "--faults", names],
        cwd=ROOT, capture_output=True, text=True, timeout=3000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    matrix = FaultMatrix(Store(store).cells.values())
    assert [(test, fault) for test, fault in own if matrix.lanes(fault, test) not in ("F", "D")] == []
    assert not matrix.false_alarms()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("test", "said"), [("drift_is", "more exact than bf16 can be"), ("really_ran", "bf16 was declared")]
)
def test_a_model_that_was_widened_is_found_in_its_declared_lane(test: str, said: str, tmp_path: Path) -> None:
    """One test a run: weights that changed end the group after a failure, and the next group is not broken."""
    broken = {"GENQUAL_TEST_FAULT": json.dumps({"name": "widened"})}
    run = suite(
        tmp_path, "-m", f"{CPU} and conformance", "--engine", "transformers", "--model", "llama-tiny",
        "--dtype", "bf16", "--no-upload", "-p", "tests.faults.inject", "-k", test, env=broken,
    )  # fmt: skip
    assert "1 failed" in run.stdout, run.stdout
    assert said in run.stdout


def test_a_tokenizer_that_changes_a_text_is_found(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from genqual.models.prompts import lost_texts
    from genqual.models.spec import ModelSpec

    words = {"hello": 0, "w": 1, "?": 2}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.Fuse()
    made.save(str(tmp_path / "tokenizer.json"))
    spec = ModelSpec("mine", "directory", str(tmp_path), "llama")
    assert lost_texts(spec, ["hello"]) == []
    assert lost_texts(spec, ["hello", "H"]) == [("H", "?")]


@pytest.mark.parametrize("published", ["llama2", "gemma", "nfc"])
def test_a_tokenizer_whose_decoder_undoes_its_normaliser_loses_nothing(published: str, tmp_path: Path) -> None:
    """Spaces written as U+2581 come back as spaces; a decoder that takes more away is found."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    from genqual.models.prompts import lost_texts
    from genqual.models.spec import ModelSpec

    space = normalizers.Replace(" ", "\u2581")
    back = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    normalizer, decoder = {
        "llama2": (normalizers.Sequence([normalizers.Prepend("\u2581"), space]), [*back, decoders.Strip(" ", 1, 0)]),
        "gemma": (space, back),
        "nfc": (normalizers.NFC(), back[1:]),
    }[published]
    words = {
        "<unk>": 0,
        **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)},
        "\u2581": 257,
        "a": 258,
        "\u2581a": 259,
    }
    spec = ModelSpec("mine", "directory", str(tmp_path), "llama")
    texts = ["a bit there", " a  b", "cafe\u0301 \u65e5\u672c", "a\u2581b"]

    def lost(steps: list[Any]) -> list[tuple[str, str]]:
        made = Tokenizer(models.BPE(words, [("\u2581", "a")], byte_fallback=True, unk_token="<unk>"))
        made.normalizer, made.decoder = normalizer, decoders.Sequence(steps)
        made.save(str(tmp_path / "tokenizer.json"))
        return lost_texts(spec, texts)

    assert lost(decoder) == []
    assert [text for text, _ in lost([*decoder, decoders.Strip("a", 1, 0)])] != []


def test_a_tokenizer_that_puts_a_space_before_each_text_loses_nothing(tmp_path: Path) -> None:
    """`add_prefix_space`, which no decoder of bytes takes away again; what it does not say is found as ever."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from genqual.models.prompts import lost_texts
    from genqual.models.spec import ModelSpec

    words = {one: index for index, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    spec = ModelSpec("mine", "directory", str(tmp_path), "llama")

    def lost(*, prefix: bool, steps: tuple[Any, ...] = ()) -> list[tuple[str, str]]:
        made = Tokenizer(models.BPE(words, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        made.decoder = decoders.Sequence([decoders.ByteLevel(), *steps])
        made.save(str(tmp_path / "tokenizer.json"))
        return lost_texts(spec, ["a bit there", "  a", "\u65e5\u672c"])

    assert lost(prefix=True) == lost(prefix=False) == []
    assert lost(prefix=True, steps=(decoders.Replace("b", "c"),)) == [("a bit there", " a cit there")]
    assert lost(prefix=False, steps=(decoders.Replace("a", " a"),)) != []
