"""The safetensors reader against torch's writer, and against files that were damaged on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from genqual.errors import BadInput
from genqual.models import safetensor

from .conftest import Peer


@pytest.mark.parametrize("name", ["f32", "bf16", "f16", "scalar"])
def test_every_bit_pattern_is_widened_as_torch_does(peer: Peer, name: str) -> None:
    entries = safetensor.header(peer.room / "torch.safetensors")
    assert set(entries) == {"f32", "bf16", "f16", "scalar"}
    read, torch_says = safetensor.read(name, entries[name]), np.load(peer.room / f"torch-{name}.npy")
    assert read.dtype == np.float32
    assert read.shape == torch_says.shape
    assert np.array_equal(read, torch_says, equal_nan=True)
    if name != "f16":  # a signalling nan of 16 bits is quietened by whichever processor widens it
        assert np.array_equal(read.view(np.uint32), torch_says.view(np.uint32))


def test_what_is_written_in_bf16_is_read_by_the_safetensors_package(tmp_path: Path) -> None:
    values = {"b": np.array([[1.5, -0.25]], dtype=np.float32), "a": np.zeros((2, 0), dtype=np.float32)}
    safetensor.write_bf16(tmp_path / "w.safetensors", values)
    with safe_open(str(tmp_path / "w.safetensors"), framework="np") as opened:
        assert {name: opened.get_slice(name).get_shape() for name in opened.keys()} == {"b": [1, 2], "a": [2, 0]}  # noqa: SIM118 - safe_open is no mapping
        assert {opened.get_slice(name).get_dtype() for name in ("a", "b")} == {"BF16"}
    entries = safetensor.header(tmp_path / "w.safetensors")
    assert all(np.array_equal(safetensor.read(name, entries[name]), values[name]) for name in values)


def test_bf16_refuses_to_round(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="w is not exact"):
        safetensor.write_bf16(tmp_path / "w.safetensors", {"w": np.array([1 + 2**-10], dtype=np.float32)})


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_file({"w": np.arange(100, dtype=np.float32)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1, -300])
def test_a_file_cut_short_anywhere_is_told_from_a_whole_one(whole: Path, keep: int) -> None:
    raw = whole.read_bytes()
    whole.write_bytes(raw[:keep])
    with pytest.raises(BadInput, match=r"model\.safetensors: (cut short|not a safetensors file).*download it again"):
        safetensor.header(whole)


def test_the_message_counts_the_missing_bytes(whole: Path) -> None:
    raw = whole.read_bytes()
    whole.write_bytes(raw[:-7])
    with pytest.raises(BadInput, match=f"promises {len(raw)} bytes, the file has {len(raw) - 7}"):
        safetensor.header(whole)


@pytest.mark.parametrize(
    "described",
    [
        "{",
        "[]",
        '{"w": {"dtype": "F32", "shape": [3]}}',
        '{"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
        '{"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}',
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, described: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(described).to_bytes(8, "little") + described.encode() + bytes(64))
    with pytest.raises(BadInput, match="cannot be read"):
        safetensor.header(file)


def test_a_quantised_checkpoint_is_refused_by_its_dtype(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, dtype=np.int8)}, tmp_path / "model.safetensors")
    entry = safetensor.header(tmp_path / "model.safetensors")["w"]
    with pytest.raises(BadInput, match=r"w is I8.*unquantised"):
        safetensor.read("w", entry)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"w": np.zeros(3, dtype=np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(BadInput, match="model-00002-of-00002"):
        safetensor.checkpoint(tmp_path)


def test_an_index_cannot_point_outside_its_directory(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, dtype=np.float32)}, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    index = {"weight_map": {"w": "../secret.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="secret"):
        safetensor.checkpoint(tmp_path / "model")


def test_pickles_are_named_but_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin.*no pickles"):
        safetensor.checkpoint(tmp_path)
