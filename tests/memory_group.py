"""A control group with a memory limit, of the kernel's own making, for programs that a test runs."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

V1 = Path("/sys/fs/cgroup/memory")


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """The directory of a v1 memory group of `limit` bytes below this process's own; skips where none can be made."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((path for _, controllers, path in lines if "memory" in controllers.split(",")), None)
    if own is None or not (V1 / own.lstrip("/") / "memory.limit_in_bytes").is_file():
        pytest.skip("no memory hierarchy of version 1 is mounted; version 2 is tried by trees of files")
    place = V1 / own.lstrip("/") / f"genqual-test-{uuid.uuid4().hex[:8]}"
    try:
        place.mkdir()
        (place / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        with suppress(OSError):
            place.rmdir()
        pytest.skip(f"a memory group needs root and a hierarchy that may be written to ({error.strerror})")
    try:
        yield place
    finally:
        end = time.monotonic() + 20
        while time.monotonic() < end:  # a group goes when its last process does
            try:
                place.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                break


def run_inside(place: Path, command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """`command` with all that it starts, in the group."""
    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(place), *command]
    return subprocess.run(inside, capture_output=True, text=True, check=False, timeout=200, env={**os.environ, **env})
