"""LLM.int8 rounds a token by the others of its pass, and only accelerate computes it: what is judged of it, and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import suite


@pytest.mark.parametrize("broken", [True, False], ids=["leaks", "honest"])
def test_causality_is_held_to_its_envelope_and_bits_to_no_bits_of_its_own(broken: bool, tmp_path: Path) -> None:
    inject = ("-p", "tests.faults.inject") if broken else ()
    run = suite(
        tmp_path, "-m", CPU, "--engine", "accelerate", "--model", "llama-tiny", "--dtype", "int8-bitsandbytes",
        "--no-upload", "-k", "later_tokens or split_over_devices or offloaded_weights", *inject,
        env={"GENQUAL_TEST_FAULT": json.dumps({"name": "causal_leak", "params": {"share": 0.5}})},
    )  # fmt: skip
    said = " ".join(run.stdout.split())
    assert run.returncode == int(broken), run.stdout + run.stderr
    assert f"1 {'failed' if broken else 'passed'}" in said
    assert "2 x NOT APPLICABLE" in said
    assert "is the only plain way to compute int8-bitsandbytes" in said
    assert "Bitwise" not in said
