"""A run in a fork is what it would be in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.plugin import forked

USAGE = ["-p", "no:cacheprovider", "--ranks=0"]


def test_a_fork_says_and_ends_as_a_process_of_its_own() -> None:
    env = {**os.environ, "COLUMNS": "90"}
    fresh = subprocess.run(
        [sys.executable, "-m", "pytest", *USAGE], cwd=forked.ROOT, env=env, capture_output=True, text=True, check=False
    )
    for _ in range(2):
        fork = forked.run(USAGE, env, 60)
        assert (fork.returncode, fork.stdout) == (fresh.returncode, fresh.stdout)
        assert fork.stderr == fresh.stderr.replace("python -m pytest", "pytest.main()")


def test_what_takes_too_long_is_ended_and_the_next_run_is_not_hurt() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run(["--co", "-q"], os.environ, 0.05)
    assert forked.run(["--version"], os.environ, 60).returncode == 0


def test_nothing_of_a_run_is_seen_by_the_next() -> None:
    said = [
        forked.run(["-p", "no:cacheprovider", "-m", "hpu", "--allow-absent", "-k", "no_such", "--color=no"], env, 60)
        for env in ({**os.environ, "COLUMNS": "100"}, {**os.environ, "COLUMNS": "80"})
    ]
    assert [len(one.stdout.splitlines()[0]) for one in said] == [100, 80]
