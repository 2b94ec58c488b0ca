"""Facts of the host: hypervisor, instruction sets, settings of the kernel, and the kernel's list format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.devices.cpuinfo import read_cpuinfo
from genqual.devices.files import as_cpu_list, cpu_list
from genqual.devices.host import host_facts, memory_word

from .trees import Host, write

CLOCKS = "sys/devices/system/clocksource/clocksource0/available_clocksource"
VENDOR = "sys/class/dmi/id/sys_vendor"


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        (CLOCKS, "kvm-clock tsc acpi_pm", "kvm"),
        (CLOCKS, "hyperv_clocksource_tsc_page acpi_pm", "hyperv"),
        (CLOCKS, "xen tsc", "xen"),
        ("sys/hypervisor/type", "xen", "xen"),
        (VENDOR, "QEMU", "kvm"),
        (VENDOR, "Amazon EC2", "kvm"),
        (VENDOR, "Google", "kvm"),
        (VENDOR, "Microsoft Corporation", "hyperv"),
        (VENDOR, "VMware, Inc.", "vmware"),
        ("sys/class/dmi/id/product_name", "KVM Virtual Machine", "kvm"),
        (CLOCKS, "tsc hpet", "vm"),
    ],
)
def test_a_guest_names_its_hypervisor_and_bare_metal_none(root: Path, path: str, text: str, name: str) -> None:
    write(root, path, text)
    Host(flags="avx2 hypervisor").write(root)
    assert host_facts(root)["hypervisor"] == name
    # EC2 metal and a KVM host's own clock list look the same but for the flag.
    Host(flags="avx2").write(root)
    assert host_facts(root)["hypervisor"] is None


@pytest.mark.parametrize(
    ("flags", "tier"),
    [
        ("avx2 avx512f avx512_bf16 amx_tile amx_int8", "amx"),
        ("avx2 avx512f avx512_bf16 amx_bf16", "avx512-bf16"),  # a guest whose host masks the tiles
        ("avx2 avx512f avx512_bf16 avx512_vnni", "avx512-bf16"),
        ("avx2 avx512f avx512_vnni", "avx512-vnni"),
        ("avx2 avx512f", "avx512"),
        ("avx avx2", "avx2"),
        ("sse4_2 avx", "sse"),
    ],
)
def test_the_tier_is_the_strongest_set_that_is_whole(root: Path, flags: str, tier: str) -> None:
    info = read_cpuinfo(Host(flags=flags).write(root))
    assert info is not None
    assert info.tier == tier
    assert set(info.isa) <= set(flags.split())


@pytest.mark.parametrize(
    ("brand", "sku"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+", "platinum-8480plus"),
        ("INTEL(R) XEON(R) PLATINUM 8581C CPU @ 2.60GHz", "platinum-8581c-2600mhz"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "e5-2680-v4-2400mhz"),
        ("Intel(R) Xeon(R) 6980P", "6980p"),
        ("Intel(R) Xeon(R) Processor", ""),
    ],
)
def test_the_brand_becomes_a_word_of_a_file_name(root: Path, brand: str, sku: str) -> None:
    info = read_cpuinfo(Host(brand=brand).write(root))
    assert info is not None
    assert info.sku == sku
    assert re.fullmatch(r"[a-z0-9-]*", info.sku)


def test_settings_of_the_kernel_are_read(root: Path) -> None:
    write(root, "sys/devices/system/cpu/intel_pstate/no_turbo", 1)
    write(root, "sys/devices/system/cpu/smt/active", 1)
    write(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    write(root, "proc/sys/kernel/numa_balancing", 1)
    write(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver", "intel_pstate")
    for cpu, governor in enumerate(("powersave", "performance", "powersave")):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", governor)
    facts = host_facts(root)
    assert (facts["turbo"], facts["smt_active"], facts["numa_balancing"]) == (False, True, 1)
    assert (facts["transparent_hugepages"], facts["frequency_driver"]) == ("madvise", "intel_pstate")
    assert facts["governor"] == "performance,powersave"


def test_every_fact_of_an_empty_tree_is_unknown(root: Path) -> None:
    assert set(host_facts(root).values()) == {None}
    assert memory_word(None) == "unknown"


@settings(deadline=None)
@given(st.sets(st.integers(0, 300)))
def test_a_cpu_list_is_read_back_as_written(cpus: set[int]) -> None:
    assert cpu_list(as_cpu_list(cpus)) == tuple(sorted(cpus))


@pytest.mark.parametrize(("text", "cpus"), [("0-3,8", (0, 1, 2, 3, 8)), ("5", (5,)), ("", ()), (None, ())])
def test_the_kernels_list_format(text: str | None, cpus: tuple[int, ...]) -> None:
    assert cpu_list(text) == cpus
    assert as_cpu_list(cpus) == (text or "")
    with pytest.raises(ValueError, match="invalid literal"):
        cpu_list("0-x")


def test_power_and_clock_limits_are_read_where_the_kernel_shows_them(root: Path) -> None:
    Host().write(root)
    assert host_facts(root)["power_cap_w"] is host_facts(root)["clocks_mhz"] is None
    for zone, watts in (("intel-rapl:0", 350), ("intel-rapl:1", 350), ("intel-rapl:1:0", 40)):  # the last is memory
        write(root, f"sys/class/powercap/{zone}/constraint_0_power_limit_uw", str(watts * 10**6))
    for name, khz in (("min", 800_000), ("max", 3_500_000)):
        write(root, f"sys/devices/system/cpu/cpu0/cpufreq/scaling_{name}_freq", str(khz))
    assert host_facts(root)["power_cap_w"] == 700.0
    assert host_facts(root)["clocks_mhz"] == {"min": 800.0, "max": 3500.0}
