"""On which cores a rank stands: for a while, with all of its threads. In ranks only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def standing(cores: Iterable[int]) -> Iterator[None]:
    """Every thread of this rank on `cores`, then back where the rank was."""
    own = os.sched_getaffinity(0)
    _move(cores)
    try:
        yield
    finally:
        _move(own)


def _move(cores: Iterable[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)
