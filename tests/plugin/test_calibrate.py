"""`genqual reference --calibrate`: fault-free runs of many kinds, kept beside what was calibrated before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genqual.devices.registry import processor
from genqual.paths import data_dir

pytestmark = pytest.mark.heavy


def test_a_scheme_is_calibrated_beside_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "llama-tiny"
    shutil.copytree(data_dir("baselines") / "references" / "llama-tiny", folder)
    (folder / "calibration.json").write_text('{"fp8": "as it was"}')
    command = [sys.executable, "-m", "genqual.cli", "reference", "llama-tiny", "--calibrate", "--schemes", "bf16"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((folder / "calibration.json").read_text())
    assert found["fp8"] == "as it was"
    place = processor()
    assert found["bf16"]["hardware"] == place.identity().class_id
    runs = {one["run"]: one for one in found["bf16"]["runs"]}
    wanted = {"scalar kernels", "padded by 31", "in two halves"}
    if place.probe().count > 1:
        wanted |= {"two threads", "two ranks of deepspeed-inference"}
    assert wanted <= runs.keys()
    assert len(runs) >= 10
    assert not any(one["alarm"] for one in runs.values())
    assert len({one["committed"] for one in runs.values()}) > 3, "runs that agree to the last digit differ in nothing"
    assert "would alarm" in done.stdout
