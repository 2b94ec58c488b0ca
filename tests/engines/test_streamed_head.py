"""Where memory is limited, a batch reads the head once, and no copy of it is made for each row."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.xeon_decode import build

SCRIPT = Path(__file__).parent / "scripts" / "streamed_head.py"
SIZES = {"hidden": 1024, "intermediate": 64, "layers": 1, "heads": 8, "kv_heads": 8, "vocabulary": 16384}


def test_the_head_is_not_copied_for_each_row(tmp_path: Path) -> None:
    """Eight rows took eight heads: 8.4 GB of an 8B, which is streamed because memory is short."""
    build(model := tmp_path / "wide-head", SIZES)
    command = [sys.executable, str(SCRIPT), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    head, *raised = (int(line) for line in done.stdout.split()[-3:])
    assert head == 2 * SIZES["hidden"] * SIZES["vocabulary"]
    assert max(raised) < 2 * head
