"""The processes of one rank group: find them, ask for their stacks, end them. Only those with its mark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "GENQUAL_GROUP"
SETTLE_S: Final = 1.5  # longest wait for stacks to be written
TERM_S: Final = 2.0  # from SIGTERM to SIGKILL
KILL_S: Final = 5.0  # longest wait for SIGKILL to work
_LOOK_S: Final = 0.005


def members(mark: str) -> list[psutil.Process]:
    """Every live process on this host that inherited the mark: launcher, ranks, compilers that ranks started.

    The mark is found in the environment, so orphans and processes in sessions of their own are found too.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def dump_stacks(pids: Iterable[int], files: Iterable[Path]) -> None:
    """Ask ranks for all their stacks (faulthandler answers SIGUSR1, even under a held GIL); wait until written."""
    before = {file: _size(file) for file in files}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    last: dict[Path, int] = {}
    end = time.monotonic() + SETTLE_S
    while time.monotonic() < end:
        time.sleep(0.1)  # a dump has no end mark: done is when the files grew and then stood still
        sizes = {file: _size(file) for file in before}
        if sizes == last and all(sizes[file] > before[file] for file in before):
            return
        last = sizes


def end(launcher: subprocess.Popen[bytes], mark: str, *, politely: bool = True) -> list[int]:
    """End the whole group, SIGTERM to the launcher first, SIGKILL to whatever is left. Returns pids that survived.

    Without `politely` SIGKILL comes first: for ranks that have said that they are done.
    """
    if politely and launcher.poll() is None:
        launcher.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(TERM_S)
    limit = time.monotonic() + KILL_S
    while (left := members(mark)) and time.monotonic() < limit:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        gone(left, 0.5)
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(KILL_S)
    return [process.pid for process in left]


def gone(processes: Iterable[psutil.Process], within_s: float) -> bool:
    """Wait until all have ended. An ended one whose parent does not ask for it counts: in containers nobody may."""
    limit = time.monotonic() + within_s
    while any(_lives(process) for process in processes):
        if time.monotonic() > limit:
            return False
        time.sleep(_LOOK_S)
    return True


def _lives(process: psutil.Process) -> bool:
    """Whether any of its threads may still hold a port or a card's memory: the first one can end before the others."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    return False


def tail(file: Path, lines: int = 30, limit: int = 6000) -> str:
    """The last lines of a log, or "" where there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, _size(file) - limit))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
