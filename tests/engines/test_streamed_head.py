"""Where weights are streamed, a batch reads the head once, and no copy of it is made for each row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genqual.models.registry import resolve
from genqual.ranks.on_cpu import cpu_generator
from tests.benchmarks.xeon_decode import build

SCRIPT = Path(__file__).parent / "scripts" / "streamed_head.py"
SIZES = {"hidden": 1024, "intermediate": 64, "layers": 1, "heads": 8, "kv_heads": 8, "vocabulary": 16384}
LIMIT = {"max_memory": 1 << 30}


def raised(model: Path, options: dict[str, int | bool]) -> list[float]:
    """By how many heads scoring eight rows raises memory: as a batch with a cache, and in one pass."""
    command = [sys.executable, str(SCRIPT), str(model), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    head, *more = (int(line) for line in done.stdout.split()[-3:])
    assert head == 2 * SIZES["hidden"] * SIZES["vocabulary"]
    return [one / head for one in more]


def test_the_head_is_not_copied_for_each_row(tmp_path: Path) -> None:
    """Eight rows took eight heads: 8.4 GB of an 8B, which is streamed because memory is short."""
    build(model := tmp_path / "wide-head", SIZES)
    assert max(raised(model, LIMIT | {"contiguous_rows": True})) < 2


@pytest.mark.parametrize("stream", [True, False])
def test_only_what_is_streamed_for_a_tolerance_is_run_so(stream: bool) -> None:
    """An engine that is judged is left as it is, with its copies."""
    with cpu_generator(resolve("llama-tiny"), "bf16", "eager", progress=print, stream=stream) as generator:
        assert generator.plan.options.get("contiguous_rows", False) is stream
