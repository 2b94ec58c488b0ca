"""The gate's two commands as a user types them, of a build, and what a run of them said. For benchmarks; no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from genqual.health.children import ends_with_us
from tests.benchmarks.gate_launches import ROOT
from tests.here import CPU

SHAPE: Final = ("--batch-sizes", "1", "--input-lengths", "128", "--new-tokens", "32")
ENDING_S: Final = 30.0  # that pytest may take to end after Ctrl-C
MESSAGE: Final = 600  # characters of a run's reason that are kept


@dataclass(frozen=True, slots=True)
class Judged:
    """One run of pytest. `found`: JUnit's properties of the verdict; None where pytest did not come so far."""

    exit_code: int
    wall_s: float
    found: Mapping[str, str] | None
    message: str
    output: str

    @property
    def verdict(self) -> str:
        """As JUnit has it; where there is none, how pytest ended."""
        return (self.found or {}).get("genqual_verdict", f"none, exit {self.exit_code}")

    def line(self) -> dict[str, Any]:
        """What is kept of a run."""
        return {
            **{"verdict": self.verdict, "wall_s": round(self.wall_s, 1), "message": self.message[:MESSAGE]},
            **{name: (self.found or {}).get(f"genqual_{name}") for name in ("estimate", "interval", "launches")},
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """One case and workload, of the build that `python` has; pytest runs in `tree`."""

    case: tuple[str, ...]
    python: str = sys.executable
    tree: Path = ROOT

    def rebase(self, out: Path, *more: str, plugins: Sequence[str] = ()) -> list[str]:
        """The command that measures a baseline of TPOT; `plugins` are imported before it."""
        before = "".join(f"import {name}; " for name in plugins)
        code = f"{before}from genqual.cli import main; main()"
        return [self.python, "-c", code, "rebase", *self.case, *SHAPE, "--metric", "tpot", f"--out={out}", *more]

    def judge(
        self,
        junit: Path,
        *more: str,
        plugins: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Judged:
        """One run of pytest, its verdict read from `junit`. A run that is not done in time is killed and says so."""
        junit.unlink(missing_ok=True)
        start = time.monotonic()
        command = [
            *(self.python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", CPU, "--benchmark"),
            *(*self.case, *SHAPE, "-k", "test_time_per_output_token", "--no-upload", f"--junitxml={junit}"),
            *(word for name in plugins for word in ("-p", name)),
            *more,
        ]
        with started(command, self.tree, environment) as process:
            try:
                output, late = process.communicate(timeout=timeout_s)[0], ""
            except subprocess.TimeoutExpired:
                late = f"not done within {timeout_s:.0f} s; "
                process.send_signal(signal.SIGINT)  # as Ctrl-C: pytest ends its ranks and writes its report
                try:
                    output = process.communicate(timeout=ENDING_S)[0]
                except subprocess.TimeoutExpired:
                    process.kill()
                    output = process.communicate()[0]
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                raise
        took = time.monotonic() - start
        if not junit.is_file():
            return Judged(process.returncode, took, None, late, output)
        tree = ET.parse(junit)
        found = {p.get("name", ""): p.get("value", "") for p in tree.iter("property")}
        message = next((str(e.get("message")) for e in tree.iter() if e.tag in ("failure", "skipped", "error")), "")
        return Judged(process.returncode, took, found, late + message, output)


def started(command: Sequence[str], tree: Path, environment: Mapping[str, str] | None) -> subprocess.Popen[str]:
    """`command` in `tree`, its output in one pipe; it ends with us, and Ctrl-C reaches it only where we pass it on."""
    return subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        text=True,
        start_new_session=True,
        preexec_fn=ends_with_us(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def slowdown_environment(slowdown: float, work: Path, *, frozen: bool = False) -> dict[str, str]:
    """What `slow_engine` reads; `work` is where it keeps how much work the slowdown takes."""
    made = {**os.environ, "PYTHONPATH": str(ROOT), "GENQUAL_TEST_SLOWDOWN": str(slowdown)}
    made["GENQUAL_TEST_SLOW_WORK"] = str(work)
    return made | {"GENQUAL_TEST_SLOW_FROZEN": "1"} if frozen else made
