"""fp16 with DeepSpeed on a processor: judged where DeepSpeed says that it computes in it, else `unsupported`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import suite

ASK = "import torch; print(torch.ops.mkldnn._is_mkldnn_fp16_supported())"


@pytest.mark.parametrize("engine", ["deepspeed-inference", "deepspeed-zero"])
def test_fp16_is_judged_or_unsupported_and_never_a_traceback(engine: str, tmp_path: Path) -> None:
    has = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.strip()
    run = suite(
        tmp_path, "-m", CPU, "--engine", engine, "--model", "llama-tiny", "--dtype", "fp16", "--ranks", "1", "-rs",
        "--no-upload", "--allow-absent", "-k", "test_logits_match_the_oracle",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    if has == "True":
        assert "1 passed" in run.stdout, run.stdout
    else:
        assert "1 skipped" in run.stdout, run.stdout
        assert "DeepSpeed computes in float32, bfloat16 on this cpu" in run.stdout.replace("\n", " ")
        told = run.stdout.partition("genqual: unsupported")[2].replace("\n", " ")
        assert "1 x UNSUPPORTED: " in told, "without -rs, too"
    assert "Traceback" not in run.stdout + run.stderr
