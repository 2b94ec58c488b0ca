"""Embedded models written as GGUF are read back by transformers, which turns every weight round again by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genqual.commands.models import models
from genqual.errors import BadInput
from genqual.models import embedded, ggufread, ggufwrite, weights
from genqual.models.registry import resolve

from . import ggufpacked
from .conftest import TINY, Peer


@pytest.mark.parametrize("dtype", ggufwrite.DTYPES)
@pytest.mark.parametrize("name", TINY)
def test_transformers_reads_the_same_weights(name: str, dtype: str, peer: Peer) -> None:
    assert peer.answers[f"load {name}-{dtype}.gguf"] == {"hash": weights.sha256(resolve(name))}


@pytest.mark.parametrize("kind", ["fp32", "bf16", *ggufpacked.KINDS])
@pytest.mark.parametrize("name", TINY)
def test_a_file_has_the_hash_of_what_transformers_loads_from_it(name: str, kind: str, peer: Peer) -> None:
    """transformers dequantises, names and turns round by itself; ours is the second opinion, without torch."""
    spec = resolve(str(peer.room / "gguf" / f"{name}-{kind}.gguf"))
    assert peer.answers[f"load {name}-{kind}.gguf"] == {"hash": weights.sha256(spec)}
    rounded = kind in ("Q8_0", "Q4_0")
    assert (weights.sha256(spec) == weights.sha256(resolve(name))) is not rounded


@pytest.mark.parametrize("name", TINY)
def test_what_llama_cpp_reads_beside_the_weights(name: str, peer: Peer) -> None:
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(peer.room / "gguf" / f"{name}-fp32.gguf").fields
    config = embedded.config(name)
    kind = str(config["model_type"])
    assert ggufread.architecture(peer.room / "gguf" / f"{name}-fp32.gguf") == kind
    assert fields["tokenizer.ggml.model"].contents() == "none"  # and then it asks for the size of the vocabulary
    assert fields[f"{kind}.vocab_size"].contents() == config["vocab_size"]
    assert fields[f"{kind}.context_length"].contents() == embedded.POSITIONS
    if kind == "llama":
        assert fields["llama.rope.freq_base"].contents() == config["rope_theta"]
        assert fields["llama.attention.head_count_kv"].contents() == config["num_key_value_heads"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("llama-odd", "rotary scaling llama3, head_dim 24, attention_bias, mlp_bias"),
        ("qwen3-tiny", "model_type qwen3"),
    ],
)
def test_what_the_file_could_not_say_is_refused_by_name(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"its {told} would be lost"):
        ggufwrite.write(resolve(name), tmp_path / "model.gguf")
    assert list(tmp_path.glob("*.gguf")) == []


def test_matrices_are_narrow_and_vectors_are_not(peer: Peer) -> None:
    gguf = pytest.importorskip("gguf")
    tensors = gguf.GGUFReader(peer.room / "gguf" / "bloom-tiny-bf16.gguf").tensors
    assert {(len(one.shape), one.tensor_type.name) for one in tensors} == {(1, "F32"), (2, "BF16")}


def test_rotary_pairs_lie_side_by_side() -> None:
    config = embedded.config("llama-tiny")
    width = embedded.size(config, "hidden_size") // embedded.size(config, "num_attention_heads")
    rows = np.arange(embedded.size(config, "hidden_size"), dtype=np.float32)[:, None]
    moved = ggufwrite.arranged("model.layers.0.self_attn.q_proj.weight", rows, config)[:, 0]
    assert moved[:4].tolist() == [0, width // 2, 1, width // 2 + 1]
    assert moved[width] == width  # the next head begins where it did


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.write_text("precious")
    with pytest.raises(BadInput, match="is there already"):
        ggufwrite.write(resolve("llama-tiny"), file)
    assert file.read_text() == "precious"


def test_only_embedded_models_are_written(peer: Peer, tmp_path: Path) -> None:
    directory = weights.directory(resolve("llama-tiny"))
    with pytest.raises(BadInput, match="only embedded models"):
        ggufwrite.write(resolve(str(directory)), tmp_path / "other.gguf")
    with pytest.raises(BadInput, match="fp32 or bf16"):
        ggufwrite.write(resolve("llama-tiny"), tmp_path / "other.gguf", "fp8")


def test_the_command_writes_a_file_or_a_directory(tmp_path: Path) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(models, ["write", "llama-tiny", str(tmp_path / "a.gguf"), "--dtype", "bf16"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.gguf").read_bytes()[:4] == b"GGUF"
    done = CliRunner().invoke(models, ["write", "llama-tiny", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "b" / "tokenizer.json").is_file()
