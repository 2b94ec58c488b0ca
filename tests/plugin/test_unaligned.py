"""Weights that are mapped from a file at any address: products of one row have other last bits there, and no fault."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from genqual.cli import main
from tests.here import CPU
from tests.models.checkpoints import llama_tiny
from tests.plugin.suite import suite


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of 32-bit weights whose file has a header of an odd number of words: 8 bytes past a multiple of 16.

    With a reference in its cache, the directory beside it.
    """
    room = tmp_path_factory.mktemp("unaligned")
    model = llama_tiny(room / "model", rms_norm_eps=2e-5)
    file = model / "model.safetensors"
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = raw[8 : 8 + length].rstrip(b" "), raw[8 + length :]
    header += b" " * ((8 - (8 + len(header)) % 64) % 64)
    file.write_bytes(struct.pack("<Q", len(header)) + header + body)
    assert (8 + len(header)) % 64 == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENQUAL_CACHE", str(room / "cache"))
        with pytest.raises(SystemExit) as stopped:
            main(["reference", str(model), "--schemes", "", "--steps", "8"])
    assert not stopped.value.code
    return room


@pytest.mark.parametrize("broken", [False, True], ids=["right", "not fetched back"])
def test_offloaded_weights_are_the_same_and_no_bits_are_asked_of_other_addresses(
    shifted: Path, broken: bool, tmp_path: Path
) -> None:
    run = suite(
        tmp_path, "-m", CPU, "--engine", "accelerate:placement=disk-offload", f"--model={shifted / 'model'}", "--dtype",
        "fp32", "--no-upload", "-k", "offloaded_weights or really_ran",
        *(("-p", "tests.faults.inject") if broken else ()),
        env={
            "GENQUAL_CACHE": str(shifted / "cache"),
            "GENQUAL_TEST_FAULT": json.dumps({"name": "not_fetched_back"}),
        },
    )  # fmt: skip
    said = " ".join(run.stdout.split())
    assert ("1 failed, 1 passed" if broken else "2 passed") in said, run.stdout + run.stderr
    records = [json.loads(file.read_text()) for file in (tmp_path / "spool").glob("*.json")]
    (found,) = (one["judgement"] for one in records if one["judgement"]["property"].startswith("offloaded"))
    assert found["verdict"] == ("fail" if broken else "pass")
