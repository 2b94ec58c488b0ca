"""However pytest ends, no rank is left; and a lost group is an ordinary failure to pytest and the end to Hypothesis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from genqual.ranks import processes

PYTEST = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:genqual",
    "-p",
    "no:genqual_fixtures",
]

HANGING = """
from pathlib import Path
from genqual.engines.base import TokenBatch
from genqual.ranks.client import Generator
from genqual.ranks.leases import Leases
from genqual.ranks.pool import Pool
from tests.ranks.conftest import stand_in_plan

def test_hang():
    here = Path(__file__).parent
    generator = Generator(Pool(leases=Leases(here / "leases")), stand_in_plan(here / "logs"))
    with generator.fault("tests.ranks.stand_in:hold_the_gil", on=-1):
        (here / "mark.part").write_text(generator.group.mark)
        (here / "mark.part").rename(here / "mark")
        generator.generate(TokenBatch.of([[1]]), 1)
"""

LOST = """
from hypothesis import given, strategies as st
from genqual.ranks.errors import GroupLost

calls = []

@given(st.integers())
def test_lost(value):
    calls.append(value)
    raise GroupLost("a-case: rank 1 was killed by SIGKILL", None)

def test_next():
    assert len(calls) == 1, "Hypothesis must not try again"
"""


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGINT, 2),
        pytest.param(signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.heavy),
    ],
    ids=["kill -9", "Ctrl-C", "SIGTERM"],
)
def test_no_rank_is_left_when_pytest_ends(tmp_path: Path, end: signal.Signals, code: int) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    command = [*PYTEST, "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    with (tmp_path / "out").open("w") as out:
        # A shell that runs us in the background has SIGINT ignored, and a child would inherit that: Ctrl-C is heeded.
        run = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path, preexec_fn=heed_ctrl_c)
    try:
        limit = time.monotonic() + 60
        while not (tmp_path / "mark").exists():
            assert run.poll() is None, (tmp_path / "out").read_text()
            assert time.monotonic() < limit
            time.sleep(0.1)  # until the group is up, in another process
        time.sleep(0.5)  # and the request has reached the ranks, which then hold their GILs for ever
        mark = (tmp_path / "mark").read_text()
        assert len(processes.members(mark)) == 3, "torchrun and two ranks, busy in C code"
        run.send_signal(end)
        assert run.wait(45) == code  # a busy host takes its time; that it ends at all is what counts
        limit = time.monotonic() + 10
        while processes.members(mark) and time.monotonic() < limit:
            time.sleep(0.1)  # torchrun needs a moment to see that its ranks are gone
        assert processes.members(mark) == []
    finally:
        run.kill()
        run.wait()
    if end is not signal.SIGINT:  # the kernel ended the ranks, and even the one in C code left its stack
        assert "in match" in next(tmp_path.glob("logs/*/rank1.stack")).read_text()


def test_a_lost_group_is_one_failed_test(tmp_path: Path) -> None:
    (tmp_path / "test_lost.py").write_text(LOST)
    command = [*PYTEST, "-c", os.devnull, "--rootdir", str(tmp_path), "-W", "error", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "GroupLost: a-case: rank 1 was killed by SIGKILL" in run.stdout
    assert run.returncode == pytest.ExitCode.TESTS_FAILED


def test_a_process_that_has_ended_is_gone_though_nobody_asks_for_it() -> None:
    """As a rank whose launcher ended before it, in a container whose first process asks for none."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        seen = psutil.Process(child.pid)
        assert not processes.gone([seen], 0.01)
        seen.kill()
        assert processes.gone([seen], 60.0)
        assert seen.status() == psutil.STATUS_ZOMBIE, "nobody asked for it meanwhile"
        child.wait()
        assert processes.gone([seen], 60.0)


def test_a_process_whose_first_thread_has_ended_is_not_gone(tmp_path: Path) -> None:
    program = tmp_path / "leaves.py"
    program.write_text(
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "print('ready', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            seen = psutil.Process(child.pid)
            until = time.monotonic() + 60
            while seen.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
                time.sleep(0.01)
            assert seen.status() == psutil.STATUS_ZOMBIE
            assert not processes.gone([seen], 0.05)
        finally:
            child.kill()
        assert processes.gone([seen], 60.0)
