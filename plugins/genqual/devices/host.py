"""The host around any device: memory, kernel, hypervisor, and what disturbs it now. Reads /proc and /sys only."""

from __future__ import annotations

import os
from pathlib import Path

from genqual.cases import Json
from genqual.devices.cgroups import cpu_quota
from genqual.devices.cpuinfo import CpuInfo, read_cpuinfo
from genqual.devices.files import chosen, fields, read, read_int, whole


def memory_bytes(root: Path) -> int | None:
    """MemTotal: what the kernel has, a little less than what is built in."""
    kib = whole(fields(read(root / "proc/meminfo")).get("MemTotal", "").removesuffix("kB").strip())
    return None if kib is None else kib * 1024


def memory_word(size: int | None) -> str:
    """`size` in bytes as a word of a class: `512g`. Steps of an eighth of its power of two, at least 1 GiB.

    The kernel keeps some memory for itself and not the same on each boot: 503 GiB seen are 512 GiB built in.
    """
    if size is None:
        return "unknown"
    gib = size / 2**30
    step = max(1, 2 ** (int(gib).bit_length() - 1) // 8) if gib >= 1 else 1
    return f"{max(1, round(gib / step) * step)}g"


def hypervisor(root: Path, info: CpuInfo | None) -> str | None:
    """`kvm`, `xen`, `hyperv`, `vmware`; `vm` where a guest does not say of what; None on bare metal or unknown."""
    if info is None or "hypervisor" not in info.flags:
        return None
    if xen := read(root / "sys/hypervisor/type"):
        return xen
    clocks = read(root / "sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    vendor = " ".join(read(root / f"sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name")).lower()
    for mark, name in (("kvm-clock", "kvm"), ("hyperv", "hyperv"), ("xen", "xen")):
        if mark in clocks:
            return name
    for mark, name in (
        ("kvm", "kvm"),
        ("qemu", "kvm"),
        ("amazon ec2", "kvm"),
        ("google", "kvm"),
        ("microsoft", "hyperv"),
        ("vmware", "vmware"),
        ("xen", "xen"),
    ):
        if mark in vendor:
            return name
    return "vm"


def governor(root: Path) -> str | None:
    """The frequency governors in use, joined by a comma; None where the host does not scale or show them."""
    found = {read(path) for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    return ",".join(sorted(name for name in found if name)) or None


def power_cap(root: Path) -> float | None:
    """Watts that all packages together may use for long, by RAPL; None where the kernel does not show it."""
    limits = [
        read_int(zone / "constraint_0_power_limit_uw")
        for zone in sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))
        if ":" not in zone.name.removeprefix("intel-rapl:")  # a part of a package, such as its memory
    ]
    known = [limit for limit in limits if limit is not None]
    return sum(known) / 1e6 if known else None


def clock_limits(root: Path) -> dict[str, Json] | None:
    """The lowest and highest clock a core may have, MHz; None where the host does not scale or show them."""
    policy = root / "sys/devices/system/cpu/cpu0/cpufreq"
    found = {name: read_int(policy / f"scaling_{name}_freq") for name in ("min", "max")}
    return {name: khz / 1000 for name, khz in found.items() if khz is not None} or None


def host_facts(root: Path) -> dict[str, Json]:
    """What a record keeps of the host, whatever the device under test; unknown is null. No host name, no serial."""
    info = read_cpuinfo(root)
    cpu = root / "sys/devices/system/cpu"
    no_turbo = read_int(cpu / "intel_pstate/no_turbo")
    smt = read(cpu / "smt/active")
    return {
        "cpu_vendor": info.vendor if info else None,
        "cpu_brand": info.brand if info else None,
        "cpus_online": len(info.cpus) if info else None,
        "memory_bytes": memory_bytes(root),
        "kernel": read(root / "proc/sys/kernel/osrelease"),
        "hypervisor": hypervisor(root, info),
        "product": read(root / "sys/class/dmi/id/product_name"),
        "microcode": info.microcode if info else None,
        "governor": governor(root),
        "power_cap_w": power_cap(root),
        "clocks_mhz": clock_limits(root),
        "frequency_driver": read(cpu / "cpu0/cpufreq/scaling_driver"),
        "turbo": None if no_turbo is None else no_turbo == 0,
        "smt_active": None if smt is None else smt == "1",
        "transparent_hugepages": chosen(read(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        "numa_balancing": read_int(root / "proc/sys/kernel/numa_balancing"),
    }


def host_conditions(root: Path) -> dict[str, Json]:
    """What disturbs a measurement now. `ticks_*`, `pressure_total_us`, `throttle_*` and `quota_*` only grow: diff them.

    Ticks are summed over all CPUs of the host; busy counts neither idle time nor steal. Unknown is null.
    """
    load = [_number(word) for word in (read(root / "proc/loadavg") or "").split()[:3]]
    one, five, fifteen = load if len(load) == 3 else (None, None, None)
    pressure = fields(read(root / "proc/pressure/cpu")).get("some", "")
    share = dict(pair.partition("=")[::2] for pair in pressure.split())
    cpus = root / "sys/devices/system/cpu"
    quota = cpu_quota(root)
    return {
        "load_1m": one,
        "load_5m": five,
        "load_15m": fifteen,
        **_ticks(root),
        **_mhz(root),
        "governor": governor(root),
        "pressure_avg10": _number(share.get("avg10", "")),
        "pressure_total_us": whole(share.get("total")),
        "throttle_core": _total(cpus, "core_throttle_count"),
        "throttle_package": _total(cpus, "package_throttle_count"),
        **(quota.throttling() if quota else dict.fromkeys(("quota_periods", "quota_throttled", "quota_throttled_s"))),
    }


def _ticks(root: Path) -> dict[str, Json]:
    words = [whole(word) for word in fields(read(root / "proc/stat")).get("cpu", "").split()[:8]]
    ticks = [word for word in words if word is not None]
    if len(ticks) < 8:
        return dict.fromkeys(("ticks_total", "ticks_busy", "ticks_steal", "ticks_per_s"))
    # user nice system idle iowait irq softirq steal; guest time follows and is already in user and nice.
    _, _, _, idle, waiting, _, _, steal = ticks
    total = sum(ticks)
    return {
        "ticks_total": total,
        "ticks_busy": total - idle - waiting - steal,
        "ticks_steal": steal,
        "ticks_per_s": os.sysconf("SC_CLK_TCK"),
    }


def _mhz(root: Path) -> dict[str, Json]:
    info = read_cpuinfo(root)
    mhz = [cpu.mhz for cpu in info.cpus if cpu.mhz is not None] if info else []
    if not mhz:
        return dict.fromkeys(("mhz_min", "mhz_mean", "mhz_max"))
    return {"mhz_min": min(mhz), "mhz_mean": round(sum(mhz) / len(mhz), 3), "mhz_max": max(mhz)}


def _total(cpus: Path, name: str) -> int | None:
    found = [read_int(path) for path in cpus.glob(f"cpu[0-9]*/thermal_throttle/{name}")]
    known = [count for count in found if count is not None]
    return sum(known) if known else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
