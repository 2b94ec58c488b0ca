"""Run the suite as a user does, in a process of its own, from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def suite(
    state: Path, *args: str, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """`pytest ARGS` with its records below `state`; the output is text, width 120, without colour."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--state-dir={state}", *args],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", "GENQUAL_UPLOAD": f"sqlite:///{state}/results.db", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
