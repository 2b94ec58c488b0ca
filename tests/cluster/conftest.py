"""A Slurm with a prolog or an epilog, hosts on a network of their own, and the server of the tests of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from genqual.ranks import processes
from tests import services
from tests.cluster import hosts as network
from tests.cluster.hosts import Hosts
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


MakeHosts = Callable[..., Hosts]


@pytest.fixture
def make_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeHosts]:
    """Make hosts on a network of their own: `make_hosts(2, far_ms=50)`. They end with the test."""
    if absent := network.missing():
        services.absent(f"hosts as network namespaces ({', '.join(absent)})", network.INSTALL, by_ci=False)
    everywhere = processes.members
    here = _network_of("self")

    def members(mark: str) -> list[Any]:
        """Without those of other hosts: they share this machine's process table, which real hosts do not."""
        return [one for one in everywhere(mark) if _network_of(one.pid) == here]

    monkeypatch.setattr(processes, "members", members)
    with ExitStack() as stack:

        def made(count: int, **options: Any) -> Hosts:
            folder = tmp_path / "hosts"
            folder.mkdir()
            return stack.enter_context(Hosts(count, folder, **options))

        yield made


def _network_of(pid: int | str) -> int:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return 0  # it has ended
