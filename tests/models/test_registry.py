"""A name becomes a ModelSpec, or one paragraph that says what to do next."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genqual.errors import BadInput
from genqual.models import embedded, ggufread, registry
from genqual.models.catalogue import FETCHABLE
from genqual.models.spec import ModelSpec

from .checkpoints import checkpoint, llama_tiny

SMALL = {"w": np.zeros(3, dtype=np.float32)}


def gguf_file(path: Path, architecture: str = "bloom") -> Path:
    """A GGUF by its own package: facts of several kinds before the end, one tensor."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_token_list(["a", "b", "c"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_string("last", "word")
    writer.add_tensor("w", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", embedded.NAMES)
def test_embedded_names(name: str) -> None:
    assert registry.resolve(name) == ModelSpec(name, "embedded", name, name.split("-", maxsplit=1)[0])


def test_a_directory(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "my-model", SMALL, {"model_type": "llama"})
    assert registry.resolve(f"{made}/") == ModelSpec("my-model", "directory", str(made), "llama")


def test_a_relative_directory_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoint(tmp_path / "here" / "model", SMALL, {"model_type": "bloom"})
    monkeypatch.chdir(made.parent)
    assert registry.resolve("./model").location == str(made)
    monkeypatch.chdir(tmp_path)
    assert registry.resolve("here/model").source == "directory"  # not the hub's here/model


def test_a_gguf_file_says_its_architecture(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "some.Q4_1.gguf")
    assert registry.resolve(str(file)) == ModelSpec("some.Q4_1", "gguf", str(file), "bloom")


@pytest.mark.parametrize(
    ("name", "location", "revision"),
    [("bigscience/bloomz-7b1", "bigscience/bloomz-7b1", ""), ("org/name@v1.2", "org/name", "v1.2")],
)
def test_a_hub_id(name: str, location: str, revision: str) -> None:
    spec = registry.resolve(name)
    assert (spec.source, spec.location, spec.architecture, spec.revision) == ("hub", location, "", revision)
    assert spec.name == location.split("/")[1]


def test_a_fetched_model_is_a_directory_in_the_cache() -> None:
    checkpoint(FETCHABLE["smollm2-135m"].directory, SMALL, {"model_type": "llama"})
    spec = registry.resolve("smollm2-135m")
    assert (spec.name, spec.source, spec.architecture) == ("smollm2-135m", "directory", "llama")
    assert Path(spec.location).is_relative_to(registry.cache_dir())


def test_a_model_not_fetched_yet_says_how() -> None:
    with pytest.raises(BadInput, match="genqual models fetch smollm2-135m"):
        registry.resolve("smollm2-135m")
    assert "not here yet" in registry.known()["smollm2-135m"]


def test_the_cache_is_where_the_environment_says(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.cache_dir() == own_cache
    monkeypatch.delenv("GENQUAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert registry.cache_dir().name == "genqual"


def test_every_known_name_has_a_line() -> None:
    known = registry.known()
    assert set(known) == {*embedded.NAMES, *FETCHABLE}
    assert not [line for line in known.values() if "\n" in line or not line]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lama-tiny", "did you mean llama-tiny"),
        ("xyz", "known are bloom-tiny"),
        ("", "unknown"),
        ("/no/such/model", "/ exists, what follows does not"),
        ("./org/name", "no such file or directory"),
        ("missing.gguf", "no such file or directory"),
        ("org/missing.gguf", "no such file or directory"),
    ],
)
def test_a_wrong_name_is_answered_with_a_next_step(name: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as caught:
        registry.resolve(name)
    assert "\n" not in str(caught.value)


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"without config\.json"):
        registry.resolve(str(tmp_path))


@pytest.mark.parametrize("config", ["{", "[]", "{}"])
def test_a_config_that_is_none(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(BadInput, match="no readable model_type"):
        registry.resolve(str(tmp_path))


def test_a_torn_checkpoint_is_found_before_any_rank_starts(tmp_path: Path) -> None:
    made = llama_tiny(tmp_path / "model")
    file = made / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="cut short"):
        registry.resolve(str(made))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(BadInput, match="name the directory"):
        registry.resolve(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GGUF",
        b"PK\x03\x04" + bytes(40),
        struct.pack("<4sIQQ", b"GGUF", 1, 0, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 9),
    ],
)
def test_what_is_called_gguf_and_is_not(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(raw)
    with pytest.raises(BadInput, match="not a whole GGUF file"):
        registry.resolve(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize("keep", [50, 67], ids=["in a key", "in its value"])
def test_a_gguf_file_cut_inside_its_header(tmp_path: Path, keep: int) -> None:
    file = gguf_file(tmp_path / "x.gguf")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadInput, match="not a whole GGUF file"):
        registry.resolve(str(file))


def test_a_cut_header_says_where_it_ends(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "x.gguf")
    file.write_bytes(file.read_bytes()[:67])
    with pytest.raises(BadInput, match=r"x\.gguf: not a whole GGUF file \(it ends before byte 64 \+ 5 numbers"):
        registry.resolve(str(file))


def test_the_architecture_is_read_without_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gguf's reader takes seconds and hundreds of MiB for a large one, at each start and in each xdist worker."""
    file = gguf_file(tmp_path / "x.gguf")
    seen: list[str] = []
    original = gguf.GGUFReader._push_field

    def counted(self: gguf.GGUFReader, field: gguf.ReaderField, skip_sum: bool = False) -> Any:
        seen.append(field.name)
        return original(self, field, skip_sum)

    monkeypatch.setattr(gguf.GGUFReader, "_push_field", counted)
    assert registry.resolve(str(file)).architecture == "bloom"
    assert "tokenizer.ggml.tokens" not in seen
    assert ggufread.fact(file, "last") == "word"
    assert ggufread.fact(file, "tokenizer.ggml.add_bos_token") is False
    assert ggufread.fact(file, "some.numbers") == [1, 2, 3]
    assert ggufread.fact(file, "no.such.key") is None
    assert "tokenizer.ggml.tokens" in seen


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf_file(tmp_path / "x.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"x\.gguf: reading GGUF needs the package gguf .* -m pip install gguf"):
        registry.resolve(str(file))


def test_a_spec_survives_the_wire(tmp_path: Path) -> None:
    spec = registry.resolve("org/name@main")
    assert ModelSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
