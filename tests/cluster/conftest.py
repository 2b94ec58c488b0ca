"""A Slurm that a test starts with a prolog or an epilog, and the server of the tests of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests import services
from tests.cluster.slurm import INSTALL, Slurm, missing
from tests.results.conftest import postgres as postgres

Start = Callable[..., Slurm]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a cluster: `start(prolog=PATH, epilog=PATH, timeout_s=S)`. It ends with the test."""
    if absent := missing():
        services.absent(f"Slurm ({', '.join(absent)})", INSTALL, by_ci=False)
    with ExitStack() as stack:

        def started(**options: Any) -> Slurm:
            cluster = Slurm(**options)
            stack.callback(cluster.close)
            cluster.start()
            return cluster

        yield started
