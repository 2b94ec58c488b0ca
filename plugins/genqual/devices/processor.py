"""A host's processor as a device: cores are the places of ranks. Reads /proc and /sys; runs nothing, imports no torch.

One file a kind says which processors are its own: xeon.py, and cpu.py for every other one. A host has one of them.
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from pathlib import Path

from genqual.cases import Json
from genqual.devices.base import HardwareIdentity, Placement, Presence
from genqual.devices.cgroups import cpu_quota
from genqual.devices.cpuinfo import CpuInfo, read_cpuinfo
from genqual.devices.files import as_cpu_list, cpu_list, fields, read
from genqual.devices.host import host_conditions, host_facts, memory_word
from genqual.devices.placement import assign, divide, first_threads
from genqual.devices.topology import Thread, cache_facts, node_facts, read_topology
from genqual.errors import BadInput


class Processor(ABC):
    """The cores that this process may use, where the processor is not `foreign`. `root` stands in for `/` in tests."""

    name: str
    summary: str
    torch_device = "cpu"
    backend = "gloo"
    exclusive = False

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._probe = f"{root / 'proc/cpuinfo'}, the affinity of this process and the CPU quota of its control group"

    @abstractmethod
    def foreign(self, info: CpuInfo) -> str | None:
        """Why this processor belongs to another device, to follow its name; None where it is ours."""

    @abstractmethod
    def kind(self, info: CpuInfo) -> str:
        """The first words of the hardware class: which processor it is, whatever its number of cores."""

    @property
    def native_dtype(self) -> str:
        """bf16 where PyTorch has kernels for it; elsewhere its fallback runs at an eighth of fp32's speed."""
        info = read_cpuinfo(self._root)
        return "bf16" if info is None or info.has_bf16 else "fp32"

    def probe(self) -> Presence:
        """Count is CPUs a rank can be bound to: hyperthreads count, and affinity, cpuset and CPU quota limit it."""
        try:
            info = read_cpuinfo(self._root)
            if info is None:
                where = f"{platform.system()} {platform.machine()}"
                return Presence(0, self._probe, f"no CPU in {self._root / 'proc/cpuinfo'} ({where})")
            if reason := self.foreign(info):
                return Presence(0, self._probe, f"{_named(info, always=True)}, {reason}")
            threads = read_topology(self._root, info)
            return Presence(len(self._usable(threads)), self._probe, self._found(info, threads))
        except ValueError as error:
            return Presence(0, self._probe, f"a CPU list of the kernel that does not parse: {error}")

    def identity(self) -> HardwareIdentity:
        """Raises BadInput where the probe found none: another processor must not get this device's class."""
        info, threads, usable = self._here()
        cores, own = first_threads(threads), first_threads(usable)
        sockets = {thread.package for thread in threads}
        host = host_facts(self._root)
        size, guest = host["memory_bytes"], host["hypervisor"]
        words = [
            self.kind(info),
            info.sku,
            f"{len(sockets)}s" if len(sockets) > 1 else "",
            f"{len(cores)}c" if len(usable) == len(threads) else f"{len(own)}of{len(cores)}c",
            f"{len(threads)}t" if len(threads) > len(cores) else "",
            info.tier,
            memory_word(size if isinstance(size, int) else None),
            str(guest or "metal"),
        ]
        isa: list[Json] = list(info.isa)
        quota = cpu_quota(self._root)
        facts: dict[str, Json] = {
            **host,
            "family": info.family,
            "model": info.model,
            "stepping": info.stepping,
            "isa": isa,
            "isa_tier": info.tier,
            "sockets": len(sockets),
            "cores": len(cores),
            "threads": len(threads),
            "threads_per_core": max(len(thread.siblings) for thread in threads),
            "numa_nodes": node_facts(self._root),
            "caches": cache_facts(self._root, threads),
            "usable_cpus": as_cpu_list(thread.cpu for thread in usable),
            "usable_cores": len(own),
            "cpu_quota": quota.cpus if quota else None,
        }
        return HardwareIdentity(self.name, "-".join(word for word in words if word), facts)

    def place(self, ranks: int, cores_per_rank: int, *, taken: frozenset[str] = frozenset()) -> Placement:
        """Bind each rank to CPUs of its own; leases are `cpu:N`, both hyperthreads of a core that is used.

        Threads are not bound one by one (OMP_PROC_BIND, KMP_AFFINITY): that binds the main thread to one core, and
        every thread it starts later, such as gloo's, inherits that core.
        """
        if ranks < 1 or cores_per_rank < 0:
            raise BadInput(f"--ranks {ranks} of {cores_per_rank} cores: give at least 1 rank, and 0 or more cores")
        _, threads, usable = self._here()
        share = cores_per_rank or divide(usable, ranks)
        if share == 0 or ranks * share > len(usable):
            asked = f"--ranks {ranks}" if cores_per_rank < 2 else f"--ranks {ranks} of {cores_per_rank} cores each"
            raise BadInput(
                f"{asked}: this host has {self._count(usable)}; found by {self._probe}. "
                f"Ask for at most {len(usable) // max(1, cores_per_rank)} ranks, or run where more cores are allowed."
            )
        busy = cpu_list(",".join(name.removeprefix("cpu:") for name in taken if name.startswith("cpu:")))
        cores = assign(usable, ranks, share, busy)
        siblings = {thread.cpu: thread.siblings for thread in threads}
        held = {other for rank in cores for cpu in rank for other in siblings[cpu]}
        env = {"OMP_NUM_THREADS": str(share), "MKL_NUM_THREADS": str(share)}
        return Placement(
            env=tuple(dict(env) for _ in range(ranks)),
            cores=cores,
            lease=tuple(f"cpu:{cpu}" for cpu in sorted(held)),
        )

    def conditions(self) -> dict[str, Json]:
        return host_conditions(self._root)

    def _here(self) -> tuple[CpuInfo, tuple[Thread, ...], tuple[Thread, ...]]:
        """What was read, all threads, usable threads. Raises BadInput where the probe finds none."""
        presence, info = self.probe(), read_cpuinfo(self._root)
        if info is None or not presence.present:
            raise BadInput(f"this host has 0 {self.name} cores: {presence.found}; found by {presence.probe}")
        threads = read_topology(self._root, info)
        return info, threads, self._usable(threads)

    def _usable(self, threads: tuple[Thread, ...]) -> tuple[Thread, ...]:
        """Threads this process may run on; under a CPU quota a fixed part of them, near each other.

        More threads than the quota has CPUs would be stopped in each period, which looks like a slow device.
        """
        allowed = cpu_list(fields(read(self._root / "proc/self/status")).get("Cpus_allowed_list"))
        # The mask of a process may name CPUs that are offline or were never there.
        usable = tuple(thread for thread in threads if not allowed or thread.cpu in allowed)
        quota = cpu_quota(self._root)
        if quota is None or quota.cpus >= len(usable):
            return usable
        kept = assign(usable, 1, max(1, int(quota.cpus)))[0]
        return tuple(thread for thread in usable if thread.cpu in kept)

    def _found(self, info: CpuInfo, threads: tuple[Thread, ...]) -> str:
        usable = self._usable(threads)
        quota = cpu_quota(self._root)
        limit = f", control group limits CPU time to {quota.cpus:g} CPUs" if quota else ""
        return f"{_named(info)}: {self._count(usable)} usable of {len(threads)} online CPUs{limit}"

    def _count(self, threads: tuple[Thread, ...]) -> str:
        cores = len(first_threads(threads))
        if cores == len(threads):
            return f"{cores} {self.name} core{'' if cores == 1 else 's'}"
        return f"{len(threads)} {self.name} hyperthreads on {cores} core{'' if cores == 1 else 's'}"


def _named(info: CpuInfo, *, always: bool = False) -> str:
    """The brand as the kernel shows it; with the vendor where it shows none, or `always`."""
    if info.brand and not always:
        return info.brand
    return f"{info.brand or 'a processor without a model name'} (vendor {info.vendor or 'unknown'})"
