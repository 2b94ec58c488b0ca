"""Two ranks of a model that is neither Llama nor BLOOM: both engines that shard it, judged by its own oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import suite

ASKED = "logits_match or tensor_parallel_degree or share_of_the_vocabulary or really_ran"


@pytest.mark.parametrize("engine", ["transformers-tp", "deepspeed-inference"])
def test_a_qwen3_is_sharded_and_right(engine: str, tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--engine", engine, "--model", "qwen3-tiny", "--ranks", "2", "--dtype", "fp32",
        "--no-upload", "-k", ASKED,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "spool").glob("*.json")]
    found = {one["judgement"]["property"]: one["judgement"] for one in records}
    assert {"logits_match_the_oracle", "tensor_parallel_degree", "what_was_asked_for_really_ran"} <= found.keys()
    assert {one["verdict"] for one in found.values()} == {"pass"}
