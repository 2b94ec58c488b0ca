"""A peer's program in an environment of its own, judged by the real suite through `external`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.here import CPU
from tests.plugin.suite import ROOT, suite

Done = subprocess.CompletedProcess[str]


def judged(folder: Path, model: str, dtype: str, python: str, program: str, *more: str) -> tuple[Done, dict[str, Any]]:
    """A run of the two properties that the tier "top" has, and their judgements by name."""
    command = " ".join([python, str(ROOT / "docs" / "examples" / program), *more])
    run = suite(
        folder, "-m", CPU, "--engine", "external", "--model", model, "--dtype", dtype, "--no-upload", "-rs",
        "--engine-command", command, "-k", "top_probabilities or free_run",
    )  # fmt: skip
    records = [json.loads(path.read_text()) for path in (folder / "spool").glob("*.json")]
    return run, {record["judgement"]["property"]: record["judgement"] for record in records if "judgement" in record}
