"""A killed `genqual node` leaves nothing that computes: what its checks started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.here import CPU

SCRIPT = """
import os, sys
from pathlib import Path
from genqual.health.checks.base import Node
from genqual.health.checks.{module} import {check}

list({check}().run(Node({device!r}, tuple(sorted(os.sched_getaffinity(0)))[:2], Path(sys.argv[1])), 120.0))
"""


@pytest.mark.parametrize(
    ("module", "check"), [("answers", "KnownAnswers"), ("generation", "Generation"), ("siblings", "Stragglers")]
)
def test_what_a_check_started_ends_with_a_killed_run(tmp_path: Path, module: str, check: str) -> None:
    script = SCRIPT.format(module=module, check=check, device=CPU)
    run = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    children: list[psutil.Process] = []
    try:
        limit = time.monotonic() + 60
        while not children:
            assert run.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)  # until it has started something
            children = psutil.Process(run.pid).children()
        time.sleep(0.5)  # and they have become what they are to run
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        _, left = psutil.wait_procs(children, timeout=5)
        assert not left, "it goes on computing beside whoever has the node next"
    finally:
        run.kill()
        run.wait()
        for child in children:
            if child.is_running():
                child.kill()
