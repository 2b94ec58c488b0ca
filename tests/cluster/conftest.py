"""A Slurm that a test starts with a prolog or an epilog, and the server of the tests of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import services
from tests.cluster.slurm import INSTALL, Slurm, missing
from tests.results.conftest import postgres as postgres

Start = Callable[..., Slurm]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a cluster: `start(prolog=PATH, epilog=PATH)`. It ends with the test."""
    if absent := missing():
        services.absent(f"Slurm ({', '.join(absent)})", INSTALL, by_ci=False)
    with ExitStack() as stack:

        def started(*, prolog: Path | None = None, epilog: Path | None = None) -> Slurm:
            cluster = Slurm(prolog=prolog, epilog=epilog)
            stack.callback(cluster.close)
            cluster.start()
            return cluster

        yield started
