"""Fake /proc and /sys trees, written file by file as the kernel shows them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SAPPHIRE_RAPIDS = (
    "fpu sse4_2 avx f16c fma avx2 avx512f avx512dq avx512bw avx512vl avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8"
)


def write(root: Path, path: str, text: str | int) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{text}\n", encoding="utf-8")
    return target


@dataclass(frozen=True)
class Host:
    """A host to write: `smt` threads a core; siblings are numbered after all cores, as Linux does on Intel."""

    sockets: int = 1
    nodes_per_socket: int = 1
    cores_per_node: int = 2
    smt: int = 1
    vendor: str = "GenuineIntel"
    brand: str = "Intel(R) Xeon(R) Platinum 8480+"
    flags: str = SAPPHIRE_RAPIDS
    family: int = 6
    model: int = 143
    memory_gib: float = 503.4
    interleaved: bool = False  # CPU numbers dealt to nodes in turn, as some BIOSes do

    @property
    def nodes(self) -> int:
        return self.sockets * self.nodes_per_socket

    @property
    def cores(self) -> int:
        return self.nodes * self.cores_per_node

    @property
    def cpus(self) -> range:
        return range(self.cores * self.smt)

    def node(self, cpu: int) -> int:
        core = cpu % self.cores
        return core % self.nodes if self.interleaved else core // self.cores_per_node

    def socket(self, cpu: int) -> int:
        return self.node(cpu) // self.nodes_per_socket

    def siblings(self, cpu: int) -> list[int]:
        return [cpu % self.cores + thread * self.cores for thread in range(self.smt)]

    def write(self, root: Path, allowed: Collection[int] | str | None = None) -> Path:
        """Write all of it below `root`; the process may run on `allowed` (default: on every CPU)."""
        write(root, "proc/cpuinfo", "\n\n".join(self._block(cpu) for cpu in self.cpus) + "\n")
        text = allowed if isinstance(allowed, str) else joined(self.cpus if allowed is None else allowed)
        write(root, "proc/self/status", f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{text}")
        write(root, "proc/meminfo", f"MemTotal:       {round(self.memory_gib * 2**20)} kB\nMemFree:  1 kB")
        write(root, "proc/sys/kernel/osrelease", "6.8.0-41-generic")
        for cpu in self.cpus:
            topology = f"sys/devices/system/cpu/cpu{cpu}/topology"
            write(root, f"{topology}/thread_siblings_list", joined(self.siblings(cpu)))
            write(root, f"{topology}/physical_package_id", self.socket(cpu))
            self._caches(root, cpu)
        for node in range(self.nodes):
            directory = f"sys/devices/system/node/node{node}"
            write(root, f"{directory}/cpulist", joined(cpu for cpu in self.cpus if self.node(cpu) == node))
            write(root, f"{directory}/meminfo", f"Node {node} MemTotal:       1048576 kB\nNode {node} MemFree: 5 kB")
        return root

    def _block(self, cpu: int) -> str:
        lines = {
            "processor": cpu,
            "vendor_id": self.vendor,
            "cpu family": self.family,
            "model": self.model,
            "model name": self.brand,
            "stepping": 8,
            "microcode": "0x2b0005c0",
            "cpu MHz": f"{2000 + cpu}.500",
            "physical id": self.socket(cpu),
            "core id": cpu % self.cores % (self.cores // self.sockets),
            "flags": self.flags,
            "power management": "",
        }
        return "\n".join(f"{key}\t: {value}" for key, value in lines.items())

    def _caches(self, root: Path, cpu: int) -> None:
        socket = [other for other in self.cpus if self.socket(other) == self.socket(cpu)]
        for index, (level, kind, size, shared) in enumerate(
            [
                (1, "Data", "48K", self.siblings(cpu)),
                (2, "Unified", "2048K", self.siblings(cpu)),
                (3, "Unified", "105M", socket),
            ]
        ):
            directory = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", joined(shared))):
                write(root, f"{directory}/{name}", value)


def joined(cpus: Iterable[int]) -> str:
    return ",".join(str(cpu) for cpu in cpus)


def cgroup_v2(root: Path, limits: dict[str, str], *, group: str, mounted: str = "/") -> Path:
    """A unified hierarchy: `limits` maps directories below the mount to their cpu.max; the process is in `group`."""
    write(root, "proc/self/cgroup", f"0::{group}")
    write(root, "proc/self/mountinfo", f"30 23 0:26 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate")
    for directory, limit in limits.items():
        write(root, f"sys/fs/cgroup/{directory}/cpu.max", limit)
    return root


def cgroup_v1(root: Path, quota_us: int, *, group: str, mounted: str = "/") -> Path:
    """The `cpu,cpuacct` hierarchy of v1 beside others, with a limit in the directory of `group`."""
    write(root, "proc/self/cgroup", f"5:memory:/elsewhere\n4:cpu,cpuacct:{group}\n1:name=systemd:/\n0::/")
    write(
        root,
        "proc/self/mountinfo",
        f"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        f"32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
    )
    inside = group.removeprefix(mounted.rstrip("/")).strip("/")
    directory = f"sys/fs/cgroup/cpu,cpuacct/{inside}"
    write(root, f"{directory}/cpu.cfs_quota_us", quota_us)
    write(root, f"{directory}/cpu.cfs_period_us", 100000)
    return root


def memory_v2(root: Path, groups: Mapping[str, Mapping[str, str | int]], *, group: str, mounted: str = "/") -> Path:
    """A unified hierarchy: `groups` maps directories to `memory.KEY` of each; the process is in `group`."""
    cgroup_v2(root, {}, group=group, mounted=mounted)
    for directory, files in groups.items():
        for name, text in files.items():
            write(root, f"sys/fs/cgroup/{directory}/memory.{name}", text)
    return root


def memory_v1(
    root: Path, groups: Mapping[str, Mapping[str, str | int]], *, group: str, mounted: str = "/", unified: str = "/"
) -> Path:
    """As `memory_v2`, in the `memory` hierarchy of v1, beside a v2 hierarchy without controllers (hybrid)."""
    write(root, "proc/self/cgroup", f"5:memory:{group}\n4:cpu,cpuacct:/elsewhere\n1:name=systemd:/\n0::{unified}")
    write(
        root,
        "proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 31 0:30 {mounted} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "34 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
    )
    for directory, files in groups.items():
        for name, text in files.items():
            write(root, f"sys/fs/cgroup/memory/{directory}/memory.{name}", text)
    return root
