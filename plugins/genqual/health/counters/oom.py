"""Processes that the kernel ended for want of memory: of this process's control groups, else of the host."""

from __future__ import annotations

from pathlib import Path

from genqual.devices.cgroups import oom_counter
from genqual.health.counters.base import Reading


class Oom:
    """`oom_kill` of the own groups; `host_oom_kill` where no group counts, which may be another container's."""

    name = "oom"

    def read(self, root: Path) -> Reading:
        counted = oom_counter(root).read()
        if not counted:
            return Reading(why_not="neither a control group nor /proc/vmstat counts processes ended for memory")
        counts: dict[tuple[str, str], float] = {}
        for file, count in counted.items():
            whole_host = file == root / "proc/vmstat"
            entity = "host" if whole_host else f"group {file.parent.relative_to(root)}"
            counts[entity, "host_oom_kill" if whole_host else "oom_kill"] = float(count)
        return Reading(counts)
