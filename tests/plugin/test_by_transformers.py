"""A reference by transformers, for architectures that genqual has no oracle of, and what verdicts by it say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from genqual.cli import main
from genqual.conformance.oracle.registry import oracle_for, supported
from genqual.conformance.references import file
from genqual.devices.registry import processor
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput
from genqual.ranks.peer_oracle import PeerOracle
from genqual.session.reference_store import ReferenceStore
from tests.conformance.oracle.small import SMALL, parameters

from .suite import suite
from .test_other_architectures import tokenizer

UNKNOWN: Final[dict[str, Any]] = {  # partial rotary, layer norms, gated MLP, biases: none of genqual's architectures
    **{"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "use_qkv_bias": True, "max_position_embeddings": 160},
    **{"initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
WRITE: Final = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(3)
config = AutoConfig.for_model("stablelm", **json.loads(sys.argv[2]))
AutoModelForCausalLM.from_config(config).float().save_pretrained(sys.argv[1])
"""


def referenced(directory: Path, *more: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["reference", str(directory), "--schemes", "", "--steps", "6", *more])
    assert not stopped.value.code


def test_it_says_what_our_oracle_says_of_an_architecture_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL["lfm2"] | {"vocab_size": 320, "conv_bias": False}
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    save_file(parameters(config), directory / "model.safetensors", {"format": "pt"})
    tokenizer(directory)
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    referenced(directory, "--out", str(tmp_path / "ours"))
    referenced(directory, "--by", "transformers", "--out", str(tmp_path / "theirs"))
    ours, theirs = (file.read(tmp_path / who / "small") for who in ("ours", "theirs"))
    assert (ours.independent, theirs.independent) == (True, False)
    assert theirs.generator["by"] == "transformers"
    assert theirs.generator["oracle_sha256"] is None
    assert {"transformers", "torch"} <= theirs.generator.keys()
    np.testing.assert_array_equal(theirs.tokens, ours.tokens)
    error = np.sqrt(((theirs.projections - ours.projections) ** 2).mean()) / np.sqrt((ours.projections**2).mean())
    assert 0 < error < 1e-5


@pytest.mark.heavy
def test_an_architecture_without_an_oracle_is_judged_and_every_verdict_says_by_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "small-stablelm"
    done = subprocess.run([sys.executable, "-c", WRITE, str(directory), json.dumps(UNKNOWN)], timeout=200, check=False)
    assert done.returncode == 0
    tokenizer(directory)
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    case = ("-m", processor().name, f"--model={directory}", "--engine", "transformers", "--dtype", "fp32", "-rs")
    asked = ("-k", "logits_match or free_run or positions_near", "--no-upload")
    assert f"`genqual reference {directory} --by transformers` makes one" in str(
        ReferenceStore(None).reference(str(directory))
    )
    with pytest.raises(SystemExit):
        main(["reference", str(directory)])
    assert "genqual reference MODEL --by transformers" in capsys.readouterr().err
    referenced(directory, "--by", "transformers")
    judged = suite(tmp_path / "state", *case, *asked)
    assert judged.returncode == 0, judged.stdout[-3000:]
    records = [json.loads(path.read_text()) for path in (tmp_path / "state" / "spool").glob("*.json")]
    judgements = {one["judgement"]["property"]: one["judgement"] for one in records if "judgement" in one}
    assert len(judgements) == 3
    for judgement in judgements.values():
        assert judgement["verdict"] == "pass"
        assert judgement["independent"] is False
        assert "not independent" in judgement["explanation"]


def test_a_field_that_the_oracle_does_not_know_leaves_the_other_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SMALL["llama"] | {"vocab_size": 320, "twist": 0.5}))
    save_file(parameters(SMALL["llama"] | {"vocab_size": 320}), directory / "model.safetensors", {"format": "pt"})
    tokenizer(directory)
    with pytest.raises(SystemExit) as stopped:
        main(["reference", str(directory), "--schemes", ""])
    assert stopped.value.code
    said = capsys.readouterr().err
    assert "twist" in said
    assert "--by transformers" in said


def test_the_message_names_the_command() -> None:
    assert "stablelm" not in supported()
    with pytest.raises(BadInput, match="genqual reference MODEL --by transformers"):
        oracle_for({"model_type": "stablelm"}, {})


class Pretended:
    """A generator whose cached choice differs from that of its single pass wherever `near` says so."""

    def __init__(self, near: set[int]) -> None:
        self.near, self.table = near, np.random.default_rng(0).standard_normal((50, 20))
        self.loaded = [SimpleNamespace(vocabulary=20)]
        self.plan = SimpleNamespace(model=SimpleNamespace(architecture="unknown"))

    def generate(self, batch: TokenBatch, steps: int) -> Any:
        row = batch.rows[0]
        for _ in range(steps):
            order = self.table[len(row)].argsort()
            row = [*row, int(order[-2 if len(row) in self.near else -1])]
        return SimpleNamespace(tokens=np.array([row[len(row) - steps :]]))

    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool) -> Any:
        assert logits
        return SimpleNamespace(logits=self.table[1 : 1 + forced.shape[1]][:, None].astype(np.float32))


@pytest.mark.parametrize("near", [set(), {4}, {3, 5, 6}, {8}, {3, 4, 5, 6, 7, 8}], ids=str)
def test_greedy_tokens_are_the_best_of_single_passes(near: set[int]) -> None:
    pretended: Any = Pretended(near)
    peer = PeerOracle(pretended)
    chosen = peer.greedy([7, 8, 9], 6)
    logits = peer.logits([7, 8, 9, *chosen[:-1].tolist()])
    assert logits.dtype == np.float64
    assert chosen.tolist() == logits[2:].argmax(axis=-1).tolist()
    assert not peer.independent
    assert (peer.vocabulary, peer.architecture) == (20, "unknown")
