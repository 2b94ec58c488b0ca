"""Each extension, used by the real suite in a process of its own, with nothing edited but PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import ROOT, suite

HERE = Path(__file__).parent
SMALL = ("--engine", "transformers", "--model", "llama-tiny", "--dtype", "fp32")


def installed(*names: str) -> dict[str, str]:
    """An environment in which these packages are installed."""
    places = [str(HERE / name) for name in names]
    return {"PYTHONPATH": os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def records(state: Path, kind: str) -> list[dict[str, object]]:
    found = [json.loads(path.read_bytes()) for path in sorted((state / "spool").rglob("*.json"))]
    return [one for one in found if one.get("kind") == kind]


@pytest.mark.parametrize("package", [path.parent.name for path in sorted(HERE.glob("*/*.dist-info"))])
def test_an_extension_is_one_file_beside_its_metadata(package: str) -> None:
    assert len(list((HERE / package).glob("*.py"))) == 1


def test_a_device_runs_the_shipped_engines(tmp_path: Path) -> None:
    run = suite(
        tmp_path, "-m", "toy and conformance", *SMALL, "-k", "test_logits_match_the_oracle", env=installed("toy_device")
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    assert {one["system"]["device"] for one in records(tmp_path, "judgement")} == {"toy"}  # type: ignore[index]
    again = suite(tmp_path / "without", "-m", "toy", *SMALL)
    assert again.returncode != 0, "without the package there is no such device"


def test_a_metric_is_measured_recorded_and_gated(tmp_path: Path) -> None:
    shape = ("--batch-sizes", "1", "--input-lengths", "32", "--new-tokens", "8")
    run = suite(
        *(tmp_path, "-m", CPU, "--benchmark", *SMALL, *shape, "-k", "test_slowest_step or test_logits_match"),
        env=installed("toy_metric"),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "no baseline" in run.stdout
    assert "slowest step ms" in run.stdout
    (record,) = records(tmp_path, "measurement")
    metrics = {one["name"]: one for one in record["metrics"]}  # type: ignore[attr-defined]
    slowest, median = metrics["slowest_step"], metrics["itl_p50"]
    assert slowest["gate"]["verdict"] == "no_baseline"
    assert slowest["value"] >= median["value"]


def test_a_sink_takes_the_records_once(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    args = ("-m", CPU, *SMALL, "-k", "test_logits_match_the_oracle", f"--upload=toy://{kept}")
    run = suite(tmp_path / "state", *args, env=installed("toy_sink"))
    assert run.returncode == 0, run.stdout + run.stderr
    lines = kept.read_bytes().splitlines()
    spooled = {path.read_bytes() for path in (tmp_path / "state" / "spool").rglob("*.json")}
    assert lines
    assert set(lines) <= {one.rstrip(b"\n") for one in spooled} | set(lines)
    push = subprocess.run(
        [sys.executable, "-m", "genqual.cli", "push", f"--state-dir={tmp_path / 'state'}", f"toy://{kept}"],
        cwd=ROOT, env={**os.environ, **installed("toy_sink")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert kept.read_bytes().splitlines() == lines, push.stderr
