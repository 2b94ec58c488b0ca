"""Building DeepSpeed's operator ahead of time: what it says, and a lock left behind by a build that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from genqual.engines import prebuild


def test_a_stale_baton_is_removed_and_said(tmp_path: Path) -> None:
    baton = tmp_path / "lock"
    baton.touch()
    long_ago = time.time() - 7200
    os.utime(baton, (long_ago, long_ago))
    said: list[str] = []
    prebuild._drop_stale_baton(baton, said.append)
    assert not baton.exists()
    assert "left behind 120 minutes ago" in said[0]


def test_a_baton_nobody_works_for_is_stale_soon(tmp_path: Path) -> None:
    baton = tmp_path / "lock"
    baton.touch()
    a_minute_ago = time.time() - 60
    os.utime(baton, (a_minute_ago, a_minute_ago))
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as builder:
        prebuild._drop_stale_baton(baton, said.append)
        assert baton.exists()
        builder.kill()
    prebuild._drop_stale_baton(baton, said.append)
    assert not baton.exists()
    assert "killed" in said[0]


def test_a_fresh_baton_and_none_are_left_alone(tmp_path: Path) -> None:
    baton = tmp_path / "lock"
    said: list[str] = []
    prebuild._drop_stale_baton(baton, said.append)
    baton.touch()
    prebuild._drop_stale_baton(baton, said.append)
    assert baton.exists()
    assert said == []


def test_what_another_environment_built_is_not_called_ready(tmp_path: Path) -> None:
    """ninja compiles it anew, which takes minutes: two environments that alternate do so each time."""
    (tmp_path / "build.ninja").write_text("cflags = -isystem /venvs/one/torch/include -fPIC\n")
    assert not prebuild._anothers(tmp_path, "/venvs/one/torch/include")
    assert prebuild._anothers(tmp_path, "/one/torch/include")
    assert prebuild._anothers(tmp_path / "nowhere", "/venvs/one/torch/include")


def test_without_a_compiler_it_says_what_will_happen() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genqual.engines.prebuild"],
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DeepSpeed will use gloo only" in done.stderr
    assert done.stdout == ""
