"""The gate through the real suite, with fresh launches: slower by real work is REGRESSED, the same tree is not."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from genqual.devices.registry import devices
from tests.here import CPU, PYTHON
from tests.plugin.suite import ROOT, suite

TINY = ("-m", CPU, "--benchmark", "--engine", "transformers", "--model", "llama-tiny", "--dtype", "bf16")
ONE = ("--batch-sizes", "1", "--input-lengths", "32", "--no-upload", "-k", "test_time_per_output_token")


def properties(path: Path) -> dict[str, str]:
    return {one.get("name", ""): one.get("value", "") for one in ET.parse(path).iter("property")}


@pytest.mark.heavy
@pytest.mark.parametrize(("slowdown", "wrong"), [("0.5", {"pass", "improved"}), ("0", {"regressed"})])
def test_another_build_is_told_from_the_same_one(slowdown: str, wrong: set[str], tmp_path: Path) -> None:
    """Half as slow again, against the installed genqual as the other build: never PASS, and REGRESSED fails."""
    build = tmp_path / "env"
    (build / "bin").mkdir(parents=True)
    # An environment of its own would need torch of its own; this one is the tests' under another name.
    (build / "bin" / "python").write_text(f'#!/bin/sh\nGENQUAL_TEST_SLOWDOWN=0 exec {PYTHON} "$@"\n')
    (build / "bin" / "python").chmod(0o755)
    run = suite(
        tmp_path, *TINY, *ONE, f"--baseline-from={build}", "-p", "tests.benchmarks.slow_plugin",
        f"--junitxml={tmp_path}/junit.xml", "--gate-budget", "400", timeout=560,
        env={"GENQUAL_TEST_SLOWDOWN": slowdown, "GENQUAL_TEST_SLOW_WORK": f"{tmp_path}/work", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = properties(tmp_path / "junit.xml")
    assert found["genqual_verdict"] not in wrong, run.stdout
    if found["genqual_verdict"] == "regressed":
        assert run.returncode == 1
        assert "REGRESSED" in run.stdout
        assert f"again: pytest -m {CPU}" in run.stdout
        assert float(found["genqual_estimate"]) == pytest.approx(0.5, abs=0.2)


def test_a_damaged_baseline_is_named_and_judges_nothing(tmp_path: Path) -> None:
    place = tmp_path / "baselines"
    place.mkdir()
    file = place / f"{devices()[CPU].identity().class_id}.json"
    file.write_text('{"version": 1, "version": 1}')
    run = suite(tmp_path, *TINY, *ONE, f"--baselines={place}")
    assert run.returncode == 1, run.stdout
    assert "'version' stands twice" in run.stdout
    assert "restore it from version control" in run.stdout
    assert "Traceback" not in run.stdout
    assert file.read_text() == '{"version": 1, "version": 1}'
