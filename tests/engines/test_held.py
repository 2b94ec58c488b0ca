"""What a rank says it holds is what the checkpoint stores: buffers that are weights count, rotary tables do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "held.py"
ARCHITECTURES = ("deepseek_v3", "gpt2")


@pytest.fixture(scope="module")
def counted() -> dict[str, tuple[int, int]]:
    """Weights that a rank says it holds and those saved, by architecture; one process, whose imports take longest."""
    command = [sys.executable, str(SCRIPT), *ARCHITECTURES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()[-len(ARCHITECTURES) :]]
    return {name: (int(held), int(saved)) for name, held, saved in lines}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rank_holds_what_the_checkpoint_stores(counted: dict[str, tuple[int, int]], architecture: str) -> None:
    held, saved = counted[architecture]
    assert held == saved
