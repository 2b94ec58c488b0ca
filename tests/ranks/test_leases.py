"""Two processes never compute on one core or card, and never wait for each other in a ring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genqual.errors import BadInput
from genqual.ranks import leases as module
from genqual.ranks.leases import Leases, runtime_dir

HOLDER = """
import sys
from pathlib import Path
from genqual.ranks.leases import Leases
leases = Leases(Path(sys.argv[1]))
assert leases.take(sys.argv[2:])
print("held", flush=True)
sys.stdin.read()
"""


BUSY = """
import sys, time
from pathlib import Path
from genqual.ranks.leases import Leases
leases = Leases(Path(sys.argv[1]))
print("held", flush=True)
taken = Path(sys.argv[1], "taken")
while True:  # as a test does: request after request, nothing in between
    assert leases.take(sys.argv[2:])
    with taken.open("a") as file:
        file.write(".")
    time.sleep(0.06)
    leases.release(sys.argv[2:])
"""


@contextmanager
def another_process(folder: Path, *names: str, does: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", does, str(folder), *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_name_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    ours = Leases(tmp_path)
    with another_process(tmp_path, "core/1") as holder:
        assert ours.taken() == {"core/1"}
        assert not ours.take(["core/0", "core/1"], wait_s=0)
        assert ours.held == frozenset(), "all or none"
        assert ours.take(["core/0"], wait_s=0), "disjoint names do not disturb each other"
        holder.kill()
        holder.wait()
        assert ours.take(["core/1"], wait_s=10)
        assert ours.taken() == frozenset(), "our own do not count"
    assert ours.held == {"core/0", "core/1"}
    ours.release(["core/0", "core/1"])


def test_names_are_counted(tmp_path: Path) -> None:
    ours = Leases(tmp_path)
    assert ours.take(["a", "b"])
    assert ours.take(["b"])
    ours.release(["a", "b"])
    assert ours.held == {"b"}
    assert not Leases(tmp_path).take(["b"], wait_s=0)
    ours.release(["b"])
    theirs = Leases(tmp_path)
    assert theirs.take(["a", "b"], wait_s=0)
    theirs.release(["a", "b"])


def test_names_are_taken_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    take = Leases._take

    def watched(self: Leases, name: str, wait_s: float) -> bool:
        order.append(name)
        return take(self, name, wait_s)

    monkeypatch.setattr(Leases, "_take", watched)
    ours = Leases(tmp_path)
    ours.take(["c", "a", "b", "a"])
    ours.release(["c", "a", "b"])
    assert order == ["a", "b", "c"]


def test_a_long_wait_names_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEWS_S", 0.1)
    said: list[str] = []
    with another_process(tmp_path, "card0") as holder:
        assert not Leases(tmp_path, said.append).take(["card0"], wait_s=0.25)
        assert f"waiting for card0, held by process {holder.pid}" in said


def test_who_asks_again_and_again_lets_others_between(tmp_path: Path) -> None:
    ours, times = Leases(tmp_path), 8
    with another_process(tmp_path, "core/0", "core/1", does=BUSY):
        for _ in range(times):
            assert ours.take(["core/0", "core/1"], wait_s=30), "starved"
            ours.release(["core/0", "core/1"])
            time.sleep(module.RECENT_S / 10)
    # Where it gives no way it takes them about seventy times before we come to it once.
    assert (tmp_path / "taken").stat().st_size < 20 * times
    assert not list(tmp_path.glob("*.waits"))


def test_who_waited_and_died_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "YIELD_S", 20.0)
    (tmp_path / "a.1.waits").write_text(json.dumps({"name": "a", "pid": 1, "born": 1.0}))
    (tmp_path / "a.2.waits").write_text("half wri")
    ours = Leases(tmp_path)
    ours.take(["a"])
    ours.release(["a"])
    start = time.monotonic()
    assert ours.take(["a"], wait_s=0)
    assert time.monotonic() - start < 10
    ours.release(["a"])


def test_the_files_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"core_0.{ended.pid}.waits").write_text(json.dumps({"name": "core/0", "pid": ended.pid, "born": 1.0}))
    (tmp_path / f"core_0.{os.getppid()}.waits").write_text("half wri")
    ours = Leases(tmp_path)
    ours.take(["a"])
    ours.release(["a"])
    assert ours.take(["a"], wait_s=0)
    ours.release(["a"])
    assert [file.name for file in tmp_path.glob("*.waits")] == [f"core_0.{os.getppid()}.waits"]


def test_a_pid_that_was_reused_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.holder").write_text(json.dumps({"name": "a", "pid": 1, "born": 1.0}))
    (tmp_path / "b.holder").write_text("half wri")
    assert Leases(tmp_path).taken() == frozenset()


def test_the_folder_can_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GENQUAL_RUNTIME_DIR", str(tmp_path / "shared"))
    assert runtime_dir() == tmp_path / "shared"
    ours = Leases()
    assert ours.take(["x"])
    assert (tmp_path / "shared" / "x.lock").exists()
    ours.release(["x"])
    monkeypatch.delenv("GENQUAL_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert runtime_dir() == tmp_path / f"genqual-{os.getuid()}"
    assert runtime_dir().stat().st_mode & 0o77 == 0, "nobody else writes here"
    monkeypatch.setattr("os.getuid", lambda: 4242)
    (tmp_path / "genqual-4242").mkdir()
    with pytest.raises(BadInput, match="belongs to another user"):
        runtime_dir()
