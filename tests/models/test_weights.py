"""Weights without torch: names, the canonical hash, its cache, and models that engines must read themselves."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.errors import BadInput
from genqual.models import integers, weights
from genqual.models.identity import identity
from genqual.models.registry import resolve
from genqual.models.spec import ModelSpec

from .checkpoints import State, checkpoint, llama_tiny


def test_a_directory_is_the_model_it_holds(tmp_path: Path) -> None:
    spec = resolve(str(llama_tiny(tmp_path / "m")))
    read, made = weights.read(spec), integers.state("llama-tiny")
    assert sorted(read) == sorted(made)
    assert all(np.array_equal(read[name], made[name]) for name in made)
    assert weights.config(spec) == weights.config(resolve("llama-tiny"))


def test_the_hash_by_hand() -> None:
    one = hashlib.sha256(b"a\x001,2\x00" + np.array([1, 2], "<f4").tobytes()).digest()
    two = hashlib.sha256(b"b\x00\x00" + np.array(3, "<f4").tobytes()).digest()
    items = [("b", np.array(3, np.float32)), ("a", np.array([[1, 2]], np.float32))]
    assert weights.hash_state(items) == hashlib.sha256(one + two).hexdigest()
    assert weights.hash_state(reversed(items)) == weights.hash_state(items)


@pytest.mark.parametrize(
    "items",
    [
        {"a": np.array([1.0, 2.0], np.float32)},
        {"b": np.array([[1.0, 2.0]], np.float32)},
        {"a": np.array([[1.0], [2.0]], np.float32)},
        {"a": np.array([[1.0, -2.0]], np.float32)},
        {},
    ],
)
def test_the_hash_sees_name_shape_and_value(items: State) -> None:
    assert weights.hash_state(items.items()) != weights.hash_state([("a", np.array([[1.0, 2.0]], np.float32))])


def test_a_view_hashes_as_what_it_shows() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert weights.hash_state([("a", values.T)]) == weights.hash_state([("a", values.T.copy())])


def test_the_hash_refuses_doubles_and_repetitions() -> None:
    with pytest.raises(ValueError, match="float64"):
        weights.hash_state([("a", np.zeros(2))])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="once"):
        weights.hash_state([("a", np.zeros(2, np.float32))] * 2)


def test_a_weight_that_is_hashed_in_parts_has_the_same_hash(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, sizes = resolve(str(llama_tiny(tmp_path / "m"))), []
    whole = weights.hash_state((name, np.asarray(values)) for name, values in weights.lazily(spec).items())
    plain = weights._bytes

    def noted(values: np.ndarray) -> memoryview:
        sizes.append(values.size)
        return plain(values)

    monkeypatch.setattr(weights, "_HASHED", 1000)
    monkeypatch.setattr(weights, "_bytes", noted)
    assert weights.sha256(spec) == whole
    assert max(sizes) <= 1000


def test_the_hash_of_a_directory_is_kept_until_a_file_changes(tmp_path: Path, own_cache: Path) -> None:
    made = llama_tiny(tmp_path / "m")
    spec = resolve(str(made))
    first = weights.sha256(spec)
    (kept,) = (own_cache / "hashes").iterdir()
    kept.write_text("remembered\n")
    assert weights.sha256(spec) == "remembered"
    raw = bytearray((made / "model.safetensors").read_bytes())
    raw[-1] ^= 0x80  # the sign of one weight; the size stays
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    (made / "model.safetensors").write_bytes(raw)
    os.utime(made / "model.safetensors", ns=(stamp + 1, stamp + 1))
    assert weights.sha256(spec) not in (first, "remembered")


@pytest.mark.parametrize("how", ["written over", "put in its place"])
def test_other_weights_of_the_same_size_and_time_have_another_hash(tmp_path: Path, own_cache: Path, how: str) -> None:
    """As an archive, an image with one time for all its files, or `rsync -t` puts them there."""
    made = llama_tiny(tmp_path / "m")
    spec, file = resolve(str(made)), made / "model.safetensors"
    first, known = weights.sha256(spec), identity(spec)
    raw, stamp = bytearray(file.read_bytes()), file.stat().st_mtime_ns
    raw[-1] ^= 0x80
    target = file if how == "written over" else made / "new"
    target.write_bytes(raw)
    target.replace(file)
    os.utime(file, ns=(stamp, stamp))
    assert weights.sha256(spec) != first
    assert identity(spec) != known


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve(str(llama_tiny(tmp_path / "m")))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "file" / "cache"))
    assert weights.sha256(spec) == weights.sha256(resolve("llama-tiny"))


def test_a_tied_head_is_no_weight_of_its_own(tmp_path: Path) -> None:
    """Some checkpoints store the head that is the embedding, others do not: the same model, the same hash."""

    def tie(state: State) -> None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].copy()

    stored = resolve(str(llama_tiny(tmp_path / "stored", tie, tie_word_embeddings=True)))
    without = resolve(
        str(llama_tiny(tmp_path / "without", lambda s: s.pop("lm_head.weight"), tie_word_embeddings=True))
    )
    assert weights.sha256(stored) == weights.sha256(without)
    assert "lm_head.weight" not in weights.read(stored)
    untied = resolve(str(llama_tiny(tmp_path / "untied", tie)))
    assert "lm_head.weight" in weights.read(untied)


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    """transformers 5 loads such a head as one of its own, other loaders tie it: a right engine would FAIL."""
    spec = resolve(str(llama_tiny(tmp_path / "m", tie_word_embeddings=True)))
    with pytest.raises(BadInput, match=r"lm_head\.weight differs from the embedding.*set tie_word_embeddings"):
        weights.sha256(spec)


def test_a_tied_head_of_another_width_is_compared_by_its_values(tmp_path: Path) -> None:
    def narrow(state: State) -> None:
        state["lm_head.weight"] = state["model.embed_tokens.weight"].astype(np.float16)
        state["model.embed_tokens.weight"] = state["lm_head.weight"].astype(np.float32)

    spec = resolve(str(llama_tiny(tmp_path / "m", narrow, tie_word_embeddings=True)))
    assert "lm_head.weight" not in weights.read(spec)
    assert len(weights.sha256(spec)) == 64


def test_bloom_as_bigscience_published_it(tmp_path: Path) -> None:
    """Without the prefix `transformer.`, and tied without the config saying so."""
    state = {name.removeprefix("transformer."): values for name, values in integers.state("bloom-tiny").items()}
    config = {
        key: value for key, value in weights.config(resolve("bloom-tiny")).items() if key != "tie_word_embeddings"
    }
    read = weights.read(resolve(str(checkpoint(tmp_path / "m", state, config))))
    assert set(read) == set(integers.state("bloom-tiny")) - {"lm_head.weight"}


def test_buffers_of_old_llama_checkpoints_are_left_out(tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    spec = resolve(str(llama_tiny(tmp_path / "m", lambda state: state.update(buffer))))
    assert weights.sha256(spec) == weights.sha256(resolve("llama-tiny"))


def test_masks_of_old_checkpoints_are_neither_hashed_nor_counted(tmp_path: Path) -> None:
    """GPT-2 and GPT-NeoX files carry them, as booleans or bytes; a real bias of the same name is a weight."""
    plain = {"h.0.attn.c_attn.weight": np.ones((3, 4), np.float32), "h.0.attention.bias": np.ones(4, np.float32)}
    buffers: dict[str, Any] = {
        "h.0.attn.bias": np.tri(8, dtype=bool)[None, None],
        "h.1.attention.bias": np.tri(8, dtype=np.uint8)[None, None],
        "h.0.attn.masked_bias": np.array(-1e4, np.float32),
        "h.2.attn.causal_mask": np.tri(8, dtype=bool)[None, None],  # CodeGen
        "h.0.attention.rotary_emb.cos_cached": np.ones((8, 4), np.float32),
    }
    config = {"model_type": "gpt2"}
    without = resolve(str(checkpoint(tmp_path / "without", plain, config)))
    stored = resolve(str(checkpoint(tmp_path / "with", plain | buffers, config)))
    assert weights.sha256(stored) == weights.sha256(without)
    assert weights.count(stored) == weights.count(without) == 16


def test_tensors_are_read_when_asked_for(tmp_path: Path) -> None:
    made = llama_tiny(tmp_path / "m")
    lazy = weights.lazily(resolve(str(made)))
    file = made / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-4] + b"\x00\x00\x80\x3f")
    flat = {name: lazy[name].reshape(-1)[-1] for name in lazy}
    assert 1.0 in flat.values(), "read before it was asked for"


@pytest.mark.parametrize("name", ["bloom-tiny", "llama-tiny"])
def test_an_embedded_model_is_written_once_and_exactly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve(name)
    where = weights.directory(spec)
    assert weights.sha256(resolve(str(where))) == weights.sha256(spec)
    assert [path.name for path in where.parent.iterdir()] == [where.name]
    monkeypatch.delattr("genqual.models.integers.state")  # a second writing would need it
    assert weights.directory(spec) == where


def test_ranks_may_write_an_embedded_model_at_once(tmp_path: Path) -> None:
    code = "from genqual.models import registry, weights; print(weights.directory(registry.resolve('llama-tiny')))"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    assert said == {str(weights.directory(resolve("llama-tiny")))}
    assert len(list(Path(said.pop()).parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (ModelSpec("x", "gguf", "/models/x.gguf", "llama"), r"python -m genqual\.models\.convert /models/x\.gguf"),
        (ModelSpec("n", "hub", "org/n", ""), "download org/n"),
    ],
)
def test_what_only_an_engine_can_read_says_what_to_do(spec: ModelSpec, told: str) -> None:
    for ask in (weights.config, weights.read, weights.sha256, weights.directory):
        with pytest.raises(BadInput, match=told):
            ask(spec)


def test_a_built_directory_of_another_configuration_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a later version may be the same, and what they are multiplied to is not."""
    spec = resolve("llama-tiny")
    before = weights.directory(spec)
    other = weights.config(spec) | {"rms_norm_eps": 1e-3}
    monkeypatch.setattr(weights, "config", lambda _spec: other)
    assert json.loads((weights.directory(spec) / "config.json").read_text())["rms_norm_eps"] == 1e-3
    assert json.loads((before / "config.json").read_text())["rms_norm_eps"] == 1e-5
