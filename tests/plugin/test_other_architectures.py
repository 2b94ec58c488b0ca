"""A checkpoint that is neither Llama nor BLOOM, as a user has it: its reference, and what the suite says by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from genqual.cli import main
from genqual.devices.registry import processor
from tests.conformance.oracle.small import SMALL, parameters

from .suite import suite

GPT2 = SMALL["gpt2"] | {"vocab_size": 320, "n_positions": 96}
ASKED = "test_logits_match_the_oracle or test_a_prompt_beyond_the_limit or test_what_was_asked_for"


def tokenizer(directory: Path) -> None:
    """Bytes, from 3 on; 0 pads, 1 begins, 2 ends."""
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {name: index for index, name in enumerate([*special, *sorted(ByteLevel.alphabet())])}
    made = Tokenizer(BPE(vocabulary, []))
    made.add_special_tokens(special)
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    made.save(str(directory / "tokenizer.json"))


def test_gpt2_is_judged_by_an_oracle_and_may_refuse_what_is_beyond_its_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "small-gpt2"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(GPT2))
    save_file(parameters(GPT2), directory / "model.safetensors", {"format": "pt"})
    tokenizer(directory)
    monkeypatch.setenv("GENQUAL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as stopped:
        main(["reference", str(directory), "--schemes", "", "--steps", "6"])
    assert not stopped.value.code
    case = ("-m", processor().name, f"--model={directory}", "--engine", "transformers", "--dtype", "fp32")
    done = suite(tmp_path / "state", *case, "-k", ASKED, "-rA")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "NO REFERENCE" not in done.stdout
    for property_ in ("test_logits_match_the_oracle", "test_a_prompt_beyond_the_limit_has_a_declared_outcome"):
        assert any(line.startswith("PASSED") and property_ in line for line in done.stdout.splitlines())
