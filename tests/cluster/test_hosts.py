"""Ranks on two and four hosts: judged right over clean, lossy and long links, and a fault fails there as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.conftest import MakeHosts
from tests.cluster.hosts import Hosts
from tests.here import CPU
from tests.plugin.suite import suite

pytestmark = pytest.mark.heavy  # ranks of two or four hosts on two cores

TWO = ("test_logits_match_the_oracle", "test_free_run_follows_the_oracle")


def judged(hosts: Hosts, state: Path, engine: str, *more: str, fault: str | None = None) -> tuple[int, str]:
    """Exit status and text of a run of the suite whose ranks are spread over `hosts`."""
    run = suite(
        state, "-m", f"{CPU} and conformance", "--engine", engine, "--ranks", str(len(hosts.addresses)),
        "--model", "llama-tiny", "--dtype", "fp32", "-k", " or ".join(TWO), "--launcher", "mpirun",
        "--hosts", ",".join(hosts.addresses), f"--launcher-arguments={' '.join(hosts.mpirun)}", "--no-upload", "-rA",
        *more, *(("-p", "tests.faults.inject") if fault else ()),
        env={"GENQUAL_TEST_FAULT": json.dumps({"name": fault})} if fault else {}, timeout=900,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


def passed(said: str, engine: str, ranks: int) -> bool:
    return all(
        f"PASSED suites/conformance/test_greedy.py::{test}[{CPU}-{engine}-tp{ranks}-llama-tiny-fp32]" in said
        for test in TWO
    )


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("engine", ["transformers-tp", "deepspeed-zero"])
def test_ranks_of_several_hosts_are_judged_right(
    make_hosts: MakeHosts, tmp_path: Path, engine: str, count: int
) -> None:
    hosts = make_hosts(count)
    status, said = judged(hosts, tmp_path, engine)
    assert status == 0, said
    assert passed(said, engine, count), said
    assert hosts.wait_until_empty(10.0) == {}, said


def test_one_packet_of_a_hundred_lost_changes_no_answer(make_hosts: MakeHosts, tmp_path: Path) -> None:
    hosts = make_hosts(2)
    hosts.lose(0.01)
    status, said = judged(hosts, tmp_path, "transformers-tp")
    assert status == 0, said
    assert passed(said, "transformers-tp", 2), said
    assert min(hosts.dropped(0), hosts.dropped(1)) > 0, "packets were really lost on both"


def test_a_hundred_milliseconds_change_no_answer(make_hosts: MakeHosts, tmp_path: Path) -> None:
    """50 ms each way, by a program that forwards each frame later."""
    status, said = judged(make_hosts(2, far_ms=50), tmp_path, "transformers-tp")
    assert status == 0, said
    assert passed(said, "transformers-tp", 2), said


@pytest.mark.parametrize("link", ["lossy", "long"])
def test_a_fault_over_a_bad_link_is_no_pass(make_hosts: MakeHosts, tmp_path: Path, link: str) -> None:
    hosts = make_hosts(2, far_ms=50 if link == "long" else 0)
    if link == "lossy":
        hosts.lose(0.01)
    status, said = judged(hosts, tmp_path, "transformers-tp", fault="half_allreduce")
    assert status == 1, said
    assert f"FAILED suites/conformance/test_greedy.py::{TWO[0]}" in said, said
