"""The real /proc and /sys of this host, compared with lscpu, psutil and the kernel's own affinity calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from genqual.devices.cpuinfo import ISA, CpuInfo, read_cpuinfo
from genqual.devices.host import hypervisor, memory_bytes
from genqual.devices.placement import first_threads
from genqual.devices.topology import Thread, cache_facts, numa_nodes, read_topology
from genqual.devices.xeon import Xeon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and /sys are Linux's")
ROOT = Path("/")


@pytest.fixture(scope="module")
def info() -> CpuInfo:
    found = read_cpuinfo(ROOT)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def threads(info: CpuInfo) -> tuple[Thread, ...]:
    return read_topology(ROOT, info)


def lscpu(*arguments: str) -> Any:
    """Independent of ours: C code of util-linux, which also asks the CPUID instruction."""
    path = shutil.which("lscpu")
    if path is None:
        pytest.skip("lscpu is not installed")
    command = [path, "-J", "-B", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env={"LC_ALL": "C"}).stdout)


def summary() -> dict[str, str]:
    flat: dict[str, str] = {}

    def walk(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            flat[entry["field"].rstrip(":")] = entry.get("data") or ""
            walk(entry.get("children", []))

    walk(lscpu()["lscpu"])
    return flat


def test_the_processor_is_the_one_lscpu_names(info: CpuInfo) -> None:
    said = summary()
    assert info.vendor == said["Vendor ID"]
    assert info.brand == said["Model name"]
    assert (info.family, info.model) == (int(said["CPU family"]), int(said["Model"]))
    assert set(info.isa) == set(said["Flags"].split()) & set(ISA)


def test_sockets_cores_and_threads_are_those_lscpu_counts(threads: tuple[Thread, ...]) -> None:
    said = summary()
    assert len({thread.package for thread in threads}) == int(said["Socket(s)"])
    assert len(first_threads(threads)) == int(said["Socket(s)"]) * int(said["Core(s) per socket"])
    assert max(len(thread.siblings) for thread in threads) == int(said["Thread(s) per core"])


def test_each_cpu_is_on_the_node_and_in_the_socket_where_lscpu_sees_it(threads: tuple[Thread, ...]) -> None:
    rows = lscpu("-e=CPU,NODE,SOCKET")["cpus"]
    # A kernel without NUMA has no node column; we call that node 0.
    want = {int(row["cpu"]): (int(row.get("node") or 0), int(row["socket"])) for row in rows}
    assert {thread.cpu: (thread.node, thread.package) for thread in threads} == want
    assert set().union(*numa_nodes(ROOT).values()) in (set(want), set())


def test_caches_are_those_lscpu_lists(threads: tuple[Thread, ...]) -> None:
    rows = lscpu("-C=LEVEL,TYPE,ONE-SIZE,ALL-SIZE")["caches"]
    want = {
        (int(row["level"]), row["type"], int(row["one-size"]), int(row["all-size"]) // int(row["one-size"]))
        for row in rows
    }
    ours = {tuple(cache.values()) for cache in cache_facts(ROOT, threads) if isinstance(cache, dict)}
    assert ours == want


def test_the_hypervisor_is_the_one_lscpu_finds(info: CpuInfo) -> None:
    # lscpu reads CPUID leaf 0x40000000, which no file of /proc or /sys shows.
    want = summary().get("Hypervisor vendor", "").lower()
    ours = hypervisor(ROOT, info)
    assert (ours or "") == {"microsoft": "hyperv"}.get(want, want) or (ours == "vm" and want)


def test_counts_memory_and_affinity_agree_with_psutil(info: CpuInfo, threads: tuple[Thread, ...]) -> None:
    assert len(info.cpus) == psutil.cpu_count(logical=True)
    assert len(first_threads(threads)) == psutil.cpu_count(logical=False)
    assert memory_bytes(ROOT) == psutil.virtual_memory().total
    if info.is_xeon:
        usable = Xeon().identity().facts["usable_cpus"]
        assert isinstance(usable, str)
        assert len(psutil.Process().cpu_affinity() or []) >= Xeon().probe().count


def test_conditions_lie_between_two_looks_of_psutil() -> None:
    before, load = psutil.cpu_times(), psutil.getloadavg()
    now = Xeon().conditions()
    after = psutil.cpu_times()
    per_second = now["ticks_per_s"]
    assert isinstance(per_second, int)

    def busy(times: Any) -> float:
        # psutil subtracts nothing: guest time is already in user.
        return float(times.user + times.nice + times.system + times.irq + times.softirq)

    for name, low, high in (
        ("ticks_steal", before.steal, after.steal),
        ("ticks_busy", busy(before), busy(after)),
        ("ticks_total", busy(before) + before.idle + before.iowait + before.steal, float("inf")),
    ):
        ticks = now[name]
        assert isinstance(ticks, int)
        assert low - 0.011 <= ticks / per_second <= high + 0.011, name
    assert now["load_1m"] == pytest.approx(load[0], abs=0.5)


def test_a_process_bound_to_one_cpu_counts_one_and_places_on_it() -> None:
    found = read_cpuinfo(ROOT)
    if found is None or not found.is_xeon:
        pytest.skip("this host is no Xeon")
    cpu = max(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{cpu}}})\n"
        "from genqual.devices.xeon import Xeon\n"
        "print(Xeon().probe().count, Xeon().place(1, 0).cores)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split(maxsplit=1) == ["1", f"(({cpu},),)\n"]


def test_ranks_started_on_a_placement_run_on_disjoint_cpus() -> None:
    found = read_cpuinfo(ROOT)
    if found is None or not found.is_xeon or Xeon().probe().count < 2:
        pytest.skip("needs two Xeon cores")
    seen = []
    for cores in Xeon().place(2, 1).cores:
        code = f"import os, psutil; os.sched_setaffinity(0, {set(cores)}); print(psutil.Process().cpu_affinity())"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        seen.append(set(json.loads(done.stdout)))
    assert len(seen[0]) == len(seen[1]) == 1
    assert seen[0].isdisjoint(seen[1])
