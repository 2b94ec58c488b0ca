"""What this process's control groups leave it: CPU time and memory. Reads /proc and /sys/fs/cgroup; runs nothing.

Version 1, version 2 and both side by side; from the process's own group up to the root, since every group on the way
has a say. Each function takes the `root` below which it finds `proc` and `sys`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from genqual.cases import Json
from genqual.devices.files import fields, read, read_int, whole

_NO_LIMIT: Final = 1 << 62  # bytes; v1 says "no limit" by the largest number of pages there is


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The tightest bandwidth limit on the way to the root: `cpus` of CPU time a second, set in `directory`."""

    cpus: float
    directory: Path

    def throttling(self) -> dict[str, Json]:
        """Cumulative: periods counted, periods throttled, seconds throttled (summed over CPUs); unknown is null."""
        stat = fields(read(self.directory / "cpu.stat"))
        micro, nano = whole(stat.get("throttled_usec")), whole(stat.get("throttled_time"))
        seconds = micro / 1e6 if micro is not None else nano / 1e9 if nano is not None else None
        return {
            "quota_periods": whole(stat.get("nr_periods")),
            "quota_throttled": whole(stat.get("nr_throttled")),
            "quota_throttled_s": seconds,
        }


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """The tightest memory limit on the way to the root: `free` of `limit` bytes are left, as `file` says."""

    free: int
    limit: int
    file: Path


@dataclass(frozen=True, slots=True)
class OomCounter:
    """Where the kernel counts the processes that its out-of-memory killer ended, of some processes' own groups."""

    files: tuple[Path, ...]

    def read(self) -> dict[Path, int]:
        """Processes ended so far, by file; a group that is gone counts nothing any more."""
        counts = ((file, whole(fields(read(file)).get("oom_kill"))) for file in self.files)
        return {file: count for file, count in counts if count is not None}

    def rose(self, before: dict[Path, int]) -> int:
        """How many more processes were ended since `read` gave `before`."""
        return sum(max(0, count - before[file]) for file, count in self.read().items() if file in before)


def cpu_quota(root: Path) -> CpuQuota | None:
    """The limit of cgroup v2 `cpu.max` or v1 `cpu.cfs_quota_us`, whichever group above this process is tightest."""
    limits = [limit for directory in _directories(root, "cpu") if (limit := _limit(directory)) is not None]
    return min(limits, key=lambda limit: limit.cpus, default=None)


def memory_room(root: Path) -> MemoryRoom | None:
    """What the tightest of this process's control groups leaves, or None where none limits memory.

    Cached file pages that the kernel has not seen in use for long (inactive_file) are room: it takes them back before
    it ends anybody. Swap is not.
    """
    found = [room for directory in _directories(root, "memory") for room in _memory(directory)]
    return min(found, key=lambda room: room.free, default=None)


def _memory(directory: Path) -> Iterator[MemoryRoom]:
    """What each limit of one group leaves; `memory.high` too, beyond which the kernel slows a group to a crawl."""
    stat = fields(read(directory / "memory.stat"))
    for used, cached, limits in (
        ("memory.current", "inactive_file", ("memory.max", "memory.high")),
        ("memory.usage_in_bytes", "total_inactive_file", ("memory.limit_in_bytes",)),
    ):
        taken = read_int(directory / used)
        if taken is None:
            continue
        held = max(0, taken - (whole(stat.get(cached)) or 0))
        for name in limits:
            limit = read_int(directory / name)  # "max" is no number
            if limit is not None and 0 <= limit < _NO_LIMIT:
                yield MemoryRoom(max(0, limit - held), limit, directory / name)


def oom_counter(root: Path, pids: Iterable[int] = ()) -> OomCounter:
    """The counter of this process's own groups, and of those of `pids`, which a launcher may have put elsewhere.

    A group counts its own processes, whichever limit they were ended for: one above it, or the host's. Without a group
    that counts, as in a root group, the host's counter of all its processes stands in.
    """
    found: dict[Path, None] = {}
    for process in ("self", *map(str, pids)):
        for directory in _own(root, "memory", process):
            for name in ("memory.events", "memory.oom_control"):
                if "oom_kill" in fields(read(directory / name)):
                    found[directory / name] = None
    return OomCounter(tuple(found) or (root / "proc/vmstat",))


def _limit(directory: Path) -> CpuQuota | None:
    unified = (read(directory / "cpu.max") or "").split()
    if len(unified) == 2:
        quota, period = whole(unified[0]), whole(unified[1])
    else:
        quota, period = read_int(directory / "cpu.cfs_quota_us"), read_int(directory / "cpu.cfs_period_us")
    # "max" and -1 both mean no limit.
    return CpuQuota(quota / period, directory) if quota and period and quota > 0 and period > 0 else None


def _directories(root: Path, controller: str) -> Iterator[Path]:
    """This process's directory and all above it, in each hierarchy that has the `controller`."""
    for mount, inside in _places(root, controller, "self"):
        own = mount / inside
        yield own
        for part in inside.parents:
            # In v1 a group may have a say over itself only, without those below it.
            if read_int(mount / part / "memory.use_hierarchy") != 0:
                yield mount / part


def _own(root: Path, controller: str, process: str) -> Iterator[Path]:
    """The directory of a process in each hierarchy that has the `controller`; nothing of a process that is gone."""
    return (mount / inside for mount, inside in _places(root, controller, process))


def _places(root: Path, controller: str, process: str) -> Iterator[tuple[Path, PurePosixPath]]:
    """Where each hierarchy is mounted, and the path of the process's group below it."""
    groups = {
        name: line.split(":", 2)[2]
        for line in (read(root / "proc" / process / "cgroup") or "").splitlines()
        if line.count(":") > 1
        for name in line.split(":", 2)[1].split(",")
    }
    for line in (read(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, source = line.partition(" - ")
        before, after = mount.split(), source.split()
        if len(before) < 5 or not after:
            continue
        # v2 has one hierarchy, listed without a controller. In v1 any hierarchy may carry one; others lack its files.
        wanted = {"cgroup2": "", "cgroup": controller}.get(after[0], "none")
        if wanted in groups:
            yield root / before[4].lstrip("/"), _inside(groups[wanted], mounted=before[3])


def _inside(group: str, *, mounted: str) -> PurePosixPath:
    """The path of `group` below a mount that shows the subtree `mounted`; `.` where a namespace hides the way."""
    path = PurePosixPath(group)
    return path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
