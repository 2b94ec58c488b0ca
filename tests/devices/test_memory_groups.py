"""What control groups leave of memory, and whom the kernel ended for want of it: version 1, version 2, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genqual.devices import cgroups

from .trees import memory_v1, memory_v2, write

MIB = 1 << 20
UNLIMITED = 9223372036854771712  # v1's largest number of pages


def held(limit: int | str, current: int, **more: Any) -> dict[str, str | int]:
    return {"max": limit, "current": current, **more}


@pytest.mark.parametrize(
    ("groups", "group", "mounted", "free", "file"),
    [
        # Slurm and `systemd-run -p MemoryMax=`: the limit is the group's own, not the root's.
        ({"job/step": held(500, 120)}, "/job/step", "/", 380, "job/step/memory.max"),
        # The tightest on the way counts, wherever it stands.
        ({"job": held(500, 400), "job/step": held(900, 100)}, "/job/step", "/", 100, "job/memory.max"),
        ({"job": held(900, 400), "job/step": held(500, 100)}, "/job/step", "/", 400, "job/step/memory.max"),
        ({"job": held("max", 400), "job/step": held(500, 100)}, "/job/step", "/", 400, "job/step/memory.max"),
        # A container: its namespace shows the group as the root, or the mount shows a part of the hierarchy.
        ({"": held(500, 100)}, "/", "/", 400, "memory.max"),
        ({"": held(500, 100)}, "/docker/abc", "/docker/abc", 400, "memory.max"),
        ({"sub": held(500, 100)}, "/docker/abc/sub", "/docker/abc", 400, "sub/memory.max"),
        ({"": held(500, 100)}, "/../elsewhere", "/", 400, "memory.max"),
        # Beyond memory.high a group crawls.
        ({"job": held(900, 100, high=300)}, "/job", "/", 200, "job/memory.high"),
        ({"job": held("max", 100, high=300)}, "/job", "/", 200, "job/memory.high"),
        # Old pages of files are given back before anybody is ended; swap is not room.
        (
            {"job": held(500, 400, stat="anon 100\ninactive_file 250\nactive_file 50")},
            "/job",
            "/",
            350,
            "job/memory.max",
        ),
        ({"job": held(500, 400, **{"swap.max": 9000, "swap.current": 0})}, "/job", "/", 100, "job/memory.max"),
        ({"job": held(500, 700)}, "/job", "/", 0, "job/memory.max"),
        # Nobody's limit, or somebody else's.
        ({"job": held("max", 100)}, "/job", "/", None, ""),
        ({"other": held(500, 100)}, "/job", "/", None, ""),
        ({}, "/", "/", None, ""),
    ],
)
def test_version_2_is_read_from_the_process_s_own_group_upwards(
    groups: Any, group: str, mounted: str, free: int | None, file: str, tmp_path: Path
) -> None:
    found = cgroups.memory_room(memory_v2(tmp_path, groups, group=group, mounted=mounted))
    if free is None:
        assert found is None
        return
    assert found is not None
    assert (found.free, found.file.relative_to(tmp_path / "sys/fs/cgroup").as_posix()) == (free, file)
    assert found.limit == int(found.file.read_text())


def v1(limit: int, usage: int, **more: Any) -> dict[str, str | int]:
    return {"limit_in_bytes": limit, "usage_in_bytes": usage, "use_hierarchy": 1, **more}


@pytest.mark.parametrize(
    ("groups", "group", "mounted", "free"),
    [
        ({"slurm/job": v1(500, 120)}, "/slurm/job", "/", 380),
        ({"slurm": v1(300, 200), "slurm/job": v1(500, 120)}, "/slurm/job", "/", 100),
        ({"": v1(UNLIMITED, 900), "slurm/job": v1(500, 120)}, "/slurm/job", "/", 380),
        ({"": v1(500, 100)}, "/docker/abc", "/docker/abc", 400),
        ({"job": v1(500, 400, stat="inactive_file 7\ntotal_inactive_file 250")}, "/job", "/", 350),
        # A group without hierarchy says nothing of those below it.
        ({"a": v1(300, 200, use_hierarchy=0), "a/b": v1(500, 120, use_hierarchy=0)}, "/a/b", "/", 380),
        ({"job": v1(UNLIMITED, 120)}, "/job", "/", None),
        ({"job": v1(-1, 120)}, "/job", "/", None),
    ],
)
def test_version_1_is_read_in_its_own_hierarchy(
    groups: Any, group: str, mounted: str, free: int | None, tmp_path: Path
) -> None:
    """Beside a unified hierarchy without a memory controller, whose path is another."""
    found = cgroups.memory_room(memory_v1(tmp_path, groups, group=group, mounted=mounted, unified="/user.slice"))
    assert (found.free if found else None) == free


def test_who_was_ended_is_counted_in_the_process_s_own_group(tmp_path: Path) -> None:
    events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill {}\noom_group_kill 0"
    memory_v2(
        tmp_path, {"job": {"events": events.format(5)}, "job/step": {"events": events.format(1)}}, group="/job/step"
    )
    counter = cgroups.oom_counter(tmp_path)
    before = counter.read()
    assert list(before.values()) == [1]
    write(tmp_path, "sys/fs/cgroup/job/memory.events", events.format(6))
    assert counter.rose(before) == 0, "a sibling below the same group is nobody of ours"
    write(tmp_path, "sys/fs/cgroup/job/step/memory.events", events.format(3))
    assert counter.rose(before) == 2
    (tmp_path / "sys/fs/cgroup/job/step/memory.events").unlink()
    assert counter.rose(before) == 0, "the group is gone"


def test_a_rank_in_a_group_of_its_own_is_counted_there(tmp_path: Path) -> None:
    """As `srun` starts one; a process that is gone names no group."""
    groups = {name: {"oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0"} for name in ("job", "job/task_0")}
    memory_v1(tmp_path, groups, group="/job")
    write(tmp_path, "proc/77/cgroup", "5:memory:/job/task_0\n0::/")
    counter = cgroups.oom_counter(tmp_path, [77, 78])
    before = counter.read()
    assert len(before) == 2
    write(tmp_path, "sys/fs/cgroup/memory/job/task_0/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 1")
    assert counter.rose(before) == 1


def test_where_no_group_counts_the_host_does(tmp_path: Path) -> None:
    memory_v2(tmp_path, {}, group="/")
    write(tmp_path, "proc/vmstat", "pgfault 7\noom_kill 4")
    counter = cgroups.oom_counter(tmp_path)
    before = counter.read()
    write(tmp_path, "proc/vmstat", "pgfault 9\noom_kill 5")
    assert counter.rose(before) == 1
    assert cgroups.oom_counter(tmp_path / "nowhere").rose(before) == 0
