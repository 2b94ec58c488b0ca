"""What an engine's evidence does not show is not applicable: neither passed nor failed, and said so."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.here import CPU
from tests.plugin.suite import ROOT, suite

EXAMPLE = f"{sys.executable} {ROOT / 'docs' / 'examples' / 'numpy_engine.py'}"
EXTERNAL = ("-m", CPU, "--engine", "external", "--model", "llama-tiny", "--dtype", "fp32", "--no-upload")


def test_the_example_of_the_docs_is_qualified_at_its_tier(tmp_path: Path) -> None:
    run = suite(
        tmp_path, *EXTERNAL, "--engine-command", EXAMPLE, "-k", "greedy or weights", "--gate",
        f"--junitxml={tmp_path}/junit.xml",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    cases = {
        str(case.get("name")).partition("[")[0]: case for case in ET.parse(tmp_path / "junit.xml").iter("testcase")
    }
    assert cases["test_free_run_follows_the_oracle"].find("skipped") is None
    for name in ("test_logits_match_the_oracle", "test_every_logit_is_finite"):
        skipped = cases[name].find("skipped")
        assert skipped is not None, f"{name} passed without any logits"
        assert "NOT APPLICABLE" in str(skipped.get("message"))
    assert f"3 x NOT APPLICABLE: {CPU}-external-llama-tiny-fp32: this property needs logits; external" in run.stdout
    assert "this property needs weights; external gives tokens only" in run.stdout


@pytest.mark.heavy
@pytest.mark.parametrize("fault", ["stale-cache", "rotary"])
def test_the_broken_example_fails(fault: str, tmp_path: Path) -> None:
    run = suite(tmp_path, *EXTERNAL, "--engine-command", f"{EXAMPLE} --fault {fault}", "-k", "free_run")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "an honest run may leave the text only below" in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "server"], ["server needs --endpoint URL"]),
        (["--engine", "external"], ["external needs --engine-command"]),
        (["--endpoint", "ftp://here"], ["is no http(s) URL"]),
        (["--endpoint", "http://me:secret@here/v1"], ["http://here/v1", "GENQUAL_API_KEY"]),
        (["--endpoint", "http://here/v1?key=secret"], ["http://here/v1", "GENQUAL_API_KEY"]),
    ],
)
def test_what_is_missing_or_secret_is_told(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    run = suite(tmp_path, "-m", CPU, *arguments)
    said = run.stdout + run.stderr
    assert run.returncode == 4, said
    for word in words:
        assert word in said
    assert "secret" not in said.replace(" ".join(arguments), "")
