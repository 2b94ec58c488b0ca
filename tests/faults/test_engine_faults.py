"""A fault that only one kind of engine can have fails its conformance in the real suite; engines without one pass."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import suite

pytestmark = pytest.mark.heavy

FOUND_BY = "test_logits_match_the_oracle"


@pytest.mark.parametrize(
    ("name", "engine", "model", "dtype", "ranks"),
    [
        ("shard_swapped", "deepspeed-inference", "llama-tiny", "bf16", "2"),
        ("shard_swapped", "transformers-tp", "llama-tiny", "fp32", "2"),
        ("not_fetched_back", "accelerate:placement=cpu-offload", "bloom-tiny", "bf16", "1"),
        ("not_fetched_back", "accelerate:placement=disk", "llama-tiny", "fp32", "1"),
        ("lost_scale", "transformers", "llama-tiny", "int8-weight", "1"),
        ("lost_scale", "transformers", "bloom-tiny", "int8-smoothquant", "1"),
        ("lost_scale", "accelerate", "bloom-tiny", "int8-bitsandbytes", "1"),
        ("shared_stream", "deepspeed-zero", "llama-tiny", "bf16", "2"),
        ("stale_input", "transformers-compiled", "llama-tiny", "bf16", "1"),
    ],
)
@pytest.mark.parametrize("broken", [True, False], ids=["broken", "honest"])
def test_a_fault_of_one_engine_is_found(
    name: str, engine: str, model: str, dtype: str, ranks: str, broken: bool, tmp_path: Path
) -> None:
    inject = ("-p", "tests.faults.inject") if broken else ()
    run = suite(
        tmp_path, "-m", f"{CPU} and conformance", "--engine", engine, "--model", model, "--dtype", dtype,
        "--ranks", ranks, *inject, "--no-upload", "-k", FOUND_BY, timeout=500,
        env={"GENQUAL_TEST_FAULT": json.dumps({"name": name})},
    )  # fmt: skip
    assert run.returncode == int(broken), run.stdout + run.stderr
    assert set(re.findall(r"^FAILED \S+::(test_\w+)", run.stdout, flags=re.MULTILINE)) == (
        {FOUND_BY} if broken else set()
    )
    assert "Traceback" not in run.stdout
