"""What a rank says it holds is what the checkpoint stores: buffers that are weights count, rotary tables do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "held.py"
ARCHITECTURES = ("deepseek_v3", "gpt2")


@pytest.fixture(scope="module")
def counted() -> dict[str, list[str]]:
    """What the script says, by architecture; one process, whose imports take longest."""
    command = [sys.executable, str(SCRIPT), *ARCHITECTURES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()[-len(ARCHITECTURES) :]]
    return {name: rest for name, *rest in lines}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rank_holds_what_the_checkpoint_stores(counted: dict[str, list[str]], architecture: str) -> None:
    held, saved = counted[architecture][:2]
    assert int(held) == int(saved)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_on_disk_are_hashed_one_at_a_time(counted: dict[str, list[str]], architecture: str) -> None:
    """All at once they need the memory for whose want they were put there."""
    same, most, fetched = counted[architecture][2:]
    assert same == "True"
    assert int(most) <= 2
    assert int(fetched) > 20
