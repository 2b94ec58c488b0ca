"""`genqual links` over hosts that are network namespaces: rates, the slow link by name, a host that is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cluster.conftest import MakeHosts
from tests.cluster.hosts import Hosts

pytestmark = pytest.mark.heavy  # half a minute each, on two cores


def links(hosts: Hosts) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", "from genqual.cli import main; main()", "links"]
    words += ["--hosts", ",".join(hosts.addresses), f"--launcher-arguments={' '.join(hosts.mpirun)}"]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=500)


@pytest.mark.parametrize("kind", ["tbf", "htb"])
def test_the_slow_link_of_four_is_named(make_hosts: MakeHosts, kind: str) -> None:
    """Surely seen at 0.9 too: `python -m tests.benchmarks.slow_link` counts how often."""
    hosts = make_hosts(4, first=True)
    for number in range(4):
        hosts.shape(number, 0.8 if number == 2 else 1.0, kind)
    done = links(hosts)
    assert done.returncode == 1, done.stdout + done.stderr
    slow = [line for line in done.stdout.splitlines() if line.startswith("slow: ")]
    assert len(slow) == 1, done.stdout
    assert slow[0].startswith(f"slow: {hosts.addresses[2]}: "), done.stdout


def test_two_hosts_have_nothing_to_compare_and_their_rate_is_told(make_hosts: MakeHosts) -> None:
    hosts = make_hosts(2, first=True)
    hosts.shape(0, 0.5)
    done = links(hosts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no link can be named" in done.stdout
    assert "wrong" not in done.stdout
    rate = float(done.stdout.split("Gbit/s")[0].split()[-1])
    assert 0.1 < rate < 0.6, done.stdout


def test_hosts_that_cannot_be_reached_are_no_pass(make_hosts: MakeHosts) -> None:
    hosts = make_hosts(3)
    hosts.cut(1)
    done = links(hosts)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "genqual links: " in done.stdout
