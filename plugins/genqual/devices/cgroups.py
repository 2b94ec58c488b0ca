"""How much CPU this process's control group may use. Reads /proc and /sys/fs/cgroup; runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genqual.devices.files import fields, read, read_int, whole
from genqual.spec import Json


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


def cpu_quota(root: Path) -> CpuQuota | None:
    """The limit of cgroup v2 `cpu.max` or v1 `cpu.cfs_quota_us`, whichever group above this process is tightest."""
    limits = [limit for directory in _directories(root) if (limit := _limit(directory)) is not None]
    return min(limits, key=lambda limit: limit.cpus, default=None)


def _limit(directory: Path) -> CpuQuota | None:
    unified = (read(directory / "cpu.max") or "").split()
    if len(unified) == 2:
        quota, period = whole(unified[0]), whole(unified[1])
    else:
        quota, period = read_int(directory / "cpu.cfs_quota_us"), read_int(directory / "cpu.cfs_period_us")
    # "max" and -1 both mean no limit.
    return CpuQuota(quota / period, directory) if quota and period and quota > 0 and period > 0 else None


def _directories(root: Path) -> Iterator[Path]:
    """This process's directory and all above it, in each hierarchy that controls the CPU."""
    groups = {
        controller: line.split(":", 2)[2]
        for line in (read(root / "proc/self/cgroup") or "").splitlines()
        if line.count(":") > 1
        for controller in line.split(":", 2)[1].split(",")
    }
    for line in (read(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, source = line.partition(" - ")
        before, after = mount.split(), source.split()
        if len(before) < 5 or not after:
            continue
        # v2 has one hierarchy, listed without a controller. In v1 any hierarchy may carry `cpu`; others lack its files.
        wanted = {"cgroup2": "", "cgroup": "cpu"}.get(after[0], "none")
        if wanted not in groups:
            continue
        inside = _inside(groups[wanted], mounted=before[3])
        for part in (inside, *inside.parents):
            yield root / before[4].lstrip("/") / part


def _inside(group: str, *, mounted: str) -> PurePosixPath:
    """The path of `group` below a mount that shows the subtree `mounted`; `.` where a namespace hides the way."""
    path = PurePosixPath(group)
    return path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
