"""Why the vendor's BLOOM fails the bf16 lane: its ALiBi counts from the padded left edge. One function, one number."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optimum") is None,
    reason="optimum-habana is not installed; `tox -e hpu-contract` has it",
)


def test_the_vendors_alibi_alone_makes_the_error_and_only_where_rows_are_padded() -> None:
    """When this fails upstream's BLOOM has changed: look at docs/hpu.md and the waivers of the stand-in."""
    bin_first = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    place = os.pathsep.join((str(ROOT / "tests/simulated_hpu"), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "scripts/bloom_alibi.py")],
        env={**os.environ, "PATH": bin_first, "PYTHONPATH": place, "OMP_NUM_THREADS": "1", "PT_HPU_LAZY_MODE": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ratio = json.loads(done.stdout.splitlines()[-1])
    assert ratio["own, padded"] == pytest.approx(1.0, abs=0.05)
    assert ratio["vendor's, alone"] == pytest.approx(1.0, abs=0.05)
    assert 1.25 < ratio["vendor's, padded"] < 1.4
