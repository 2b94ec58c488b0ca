"""Run the suite as a user does, in a process of its own, from the checkout."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.here import PYTHON
from tests.plugin import forked

ROOT: Final = forked.ROOT

EXAMPLE: Final = f"{PYTHON} {shlex.quote(str(ROOT / 'docs' / 'examples' / 'numpy_engine.py'))}"


def numpy_engine(fault: str = "none") -> tuple[str, ...]:
    """Options of the engine of the docs on llama-tiny, for what is of the session and of no engine: no torch to import.

    It shows its five best log-probabilities and no logits. `fault` is one of its own: `rotary` or `stale-cache`.
    """
    command = f"{EXAMPLE} --fault {fault}"
    return ("--engine", "external", "--engine-command", command, "--model", "llama-tiny", "--dtype", "fp32")


def suite(
    state: Path, *args: str, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """`pytest ARGS` with its records below `state`; the output is text, width 120, without colour.

    A fork of a process that has imported the plugin, or a new one where `env` says what an import may find.
    """
    words = ["-p", "no:cacheprovider", f"--state-dir={state}", *args]
    whole = {**os.environ, "COLUMNS": "120", "GENQUAL_UPLOAD": f"sqlite:///{state}/results.db", **(env or {})}
    if not any(name.startswith("PYTHON") for name in env or ()):
        return forked.run(words, whole, timeout)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=ROOT,
        env=whole,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
