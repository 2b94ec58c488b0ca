"""What a rank says it holds is what the checkpoint stores: buffers that are weights count, rotary tables do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "held.py"


@pytest.mark.parametrize("architecture", ["deepseek_v3", "gpt2"])
def test_a_rank_holds_what_the_checkpoint_stores(architecture: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), architecture], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    held, saved = map(int, done.stdout.splitlines()[-1].split())
    assert held == saved
