"""A right engine passes whatever is there of a model's tokenizer, and a hub id has the one that its snapshot has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from genqual.models import weights
from genqual.models.registry import resolve
from tests.here import CPU
from tests.models.make_gguf import llama_tiny_gguf
from tests.plugin.suite import suite

GREEDY = "test_free_run_follows_the_oracle"


def run(tmp_path: Path, model: str, *names: str, **env: str) -> Any:
    asked = ("-m", CPU, "--engine", "transformers", f"--model={model}", "--dtype", "fp32", "--no-upload")
    return suite(tmp_path / "state", *asked, "-k", " or ".join(names), "-rs", env=env, timeout=400)


def test_a_checkpoint_without_a_tokenizer_is_judged_and_not_quoted(tmp_path: Path) -> None:
    """Its reference, found by the weights, gives the prompts as tokens."""
    made = run(tmp_path, str(weights.directory(resolve("llama-tiny"))), GREEDY)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "1 passed" in made.stdout


def test_a_hub_id_reads_and_shows_texts_by_its_snapshot_s_tokenizer(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("1" * 40)
    shutil.copytree(weights.directory(resolve("llama-tiny")), snapshot)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {one: index + 3 for index, one in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(snapshot / "tokenizer.json"))
    (snapshot / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text("1" * 40)
    made = run(tmp_path, "org/name", GREEDY, "test_dataset", HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "[...]" in made.stdout, "the text that a person reads"
    assert "no tokenizer.json beside" not in made.stdout


def test_a_gguf_file_s_own_tokenizer_serves_stop_strings(tmp_path: Path) -> None:
    """transformers takes a file for a folder, and ends in an error of JSON."""
    file = llama_tiny_gguf(tmp_path / "small.gguf")
    made = run(tmp_path, str(file), "test_a_row_ends_at_a_stop_string")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "1 passed" in made.stdout
