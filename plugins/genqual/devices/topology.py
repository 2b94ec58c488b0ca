"""Which CPUs share a core, a cache, a NUMA node, a socket. Reads /sys; runs nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from genqual.cases import Json
from genqual.devices.cpuinfo import CpuInfo
from genqual.devices.files import as_cpu_list, cpu_list, fields, read, read_int, whole


@dataclass(frozen=True, slots=True)
class Thread:
    """A logical CPU. `core` names the physical core by its lowest CPU; `siblings` are all CPUs of that core."""

    cpu: int
    core: int
    node: int
    package: int
    siblings: tuple[int, ...]


def read_topology(root: Path, info: CpuInfo) -> tuple[Thread, ...]:
    """One `Thread` for each online CPU, by number. Raises ValueError where the kernel's lists do not parse.

    /sys is believed before /proc/cpuinfo, whose core ids are all zero in some guests. Without either, every CPU is a
    core of its own on node 0.
    """
    online = {cpu.number for cpu in info.cpus}
    nodes = {cpu: node for node, cpus in numa_nodes(root).items() for cpu in cpus}
    by_id: dict[tuple[int, int], list[int]] = {}
    for cpu in info.cpus:
        if cpu.core is not None:
            by_id.setdefault((cpu.package or 0, cpu.core), []).append(cpu.number)
    threads = []
    for cpu in info.cpus:
        directory = root / f"sys/devices/system/cpu/cpu{cpu.number}/topology"
        listed = cpu_list(read(directory / "thread_siblings_list"))
        if not listed and cpu.core is not None:
            listed = tuple(sorted(by_id[cpu.package or 0, cpu.core]))
        siblings = tuple(other for other in listed if other in online) or (cpu.number,)
        package = read_int(directory / "physical_package_id")
        if package is None:
            package = cpu.package
        # Some hypervisors report package -1: unknown, so one socket.
        package = max(package or 0, 0)
        threads.append(Thread(cpu.number, siblings[0], nodes.get(cpu.number, 0), package, siblings))
    return tuple(sorted(threads, key=lambda thread: thread.cpu))


def numa_nodes(root: Path) -> dict[int, tuple[int, ...]]:
    """CPUs by node; memory-only nodes (HBM, CXL) have none. Empty where the kernel knows no NUMA."""
    found: dict[int, tuple[int, ...]] = {}
    for directory in (root / "sys/devices/system/node").glob("node*"):
        number = whole(directory.name.removeprefix("node"))
        if number is not None:
            found[number] = cpu_list(read(directory / "cpulist"))
    return dict(sorted(found.items()))


def node_facts(root: Path) -> list[Json]:
    """Each NUMA node with its CPUs (kernel list format) and its memory in bytes."""
    facts: list[Json] = []
    for number, cpus in numa_nodes(root).items():
        text = read(root / f"sys/devices/system/node/node{number}/meminfo") or ""
        total = fields(text.replace(f"Node {number} ", "")).get("MemTotal", "").removesuffix("kB").strip()
        kib = whole(total)
        facts.append({"node": number, "cpus": as_cpu_list(cpus), "memory_bytes": None if kib is None else kib * 1024})
    return facts


def cache_facts(root: Path, threads: tuple[Thread, ...]) -> list[Json]:
    """Each kind of cache: level, type, bytes of one instance, and how many instances the online CPUs have."""
    instances: set[tuple[int, str, int, str]] = set()
    for thread in threads:
        for index in (root / f"sys/devices/system/cpu/cpu{thread.cpu}/cache").glob("index*"):
            level, kind, size = read_int(index / "level"), read(index / "type"), _bytes(read(index / "size"))
            if level is not None and kind is not None and size is not None:
                instances.add((level, kind, size, read(index / "shared_cpu_list") or str(thread.cpu)))
    counted = Counter((level, kind, size) for level, kind, size, _ in instances)
    return [
        {"level": level, "type": kind, "bytes": size, "instances": count}
        for (level, kind, size), count in sorted(counted.items())
    ]


def _bytes(size: str | None) -> int | None:
    """Bytes of a sysfs size such as `48K`."""
    if not size:
        return None
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1])
    number = whole(size[:-1] if unit else size)
    return None if number is None else number * (unit or 1)
