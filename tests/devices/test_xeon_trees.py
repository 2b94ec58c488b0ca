"""Hosts that are not this one: two sockets with hyperthreads, an EPYC, a small guest, a limited container."""

from __future__ import annotations

from pathlib import Path

import pytest

from genqual.devices.base import Device
from genqual.devices.xeon import Xeon
from genqual.errors import BadInput

from .trees import Host, cgroup_v1, cgroup_v2, write

# 16 cores on 4 nodes of 2 sockets: cores 0-15, their hyperthreads 16-31.
BIG = Host(sockets=2, nodes_per_socket=2, cores_per_node=4, smt=2)
GUEST = Host(
    brand="Intel(R) Xeon(R) Processor @ 2.70GHz", flags="fpu hypervisor avx2", cores_per_node=1, memory_gib=3.8
)


def test_a_xeon_is_a_device() -> None:
    device: Device = Xeon()
    assert (device.name, device.torch_device, device.backend, device.exclusive) == ("xeon", "cpu", "gloo", False)


def test_two_sockets_four_nodes_and_hyperthreads(root: Path) -> None:
    xeon = Xeon(BIG.write(root))
    presence = xeon.probe()
    assert presence.count == 32
    assert presence.found == (
        "Intel(R) Xeon(R) Platinum 8480+: 32 xeon hyperthreads on 16 cores usable of 32 online CPUs"
    )
    identity = xeon.identity()
    facts = identity.facts
    assert identity.class_id == "xeon-6-model-143-platinum-8480plus-2s-16c-32t-amx-512g-metal"
    assert (facts["sockets"], facts["cores"], facts["threads"], facts["threads_per_core"]) == (2, 16, 32, 2)
    assert facts["numa_nodes"] == [
        {"node": 0, "cpus": "0-3,16-19", "memory_bytes": 2**30},
        {"node": 1, "cpus": "4-7,20-23", "memory_bytes": 2**30},
        {"node": 2, "cpus": "8-11,24-27", "memory_bytes": 2**30},
        {"node": 3, "cpus": "12-15,28-31", "memory_bytes": 2**30},
    ]
    assert facts["caches"] == [
        {"level": 1, "type": "Data", "bytes": 48 * 1024, "instances": 16},
        {"level": 2, "type": "Unified", "bytes": 2 * 2**20, "instances": 16},
        {"level": 3, "type": "Unified", "bytes": 105 * 2**20, "instances": 2},
    ]
    assert (facts["microcode"], facts["kernel"], facts["hypervisor"]) == ("0x2b0005c0", "6.8.0-41-generic", None)
    assert facts["governor"] is facts["turbo"] is facts["transparent_hugepages"] is None


@pytest.mark.parametrize(
    ("host", "found"),
    [
        (Host(vendor="AuthenticAMD", brand="AMD EPYC 9654 96-Core Processor"), "AMD EPYC 9654 96-Core Processor"),
        (Host(brand="Intel(R) Core(TM) i9-14900K"), "Intel(R) Core(TM) i9-14900K (vendor GenuineIntel)"),
        (Host(vendor="AuthenticAMD", brand="AMD Xeonic"), "vendor AuthenticAMD"),
    ],
)
def test_another_processor_is_absent_and_named(root: Path, host: Host, found: str) -> None:
    xeon = Xeon(host.write(root))
    presence = xeon.probe()
    assert (presence.count, presence.present) == (0, False)
    assert found in presence.found
    for refused in (xeon.identity, lambda: xeon.place(1, 1)):
        with pytest.raises(BadInput, match=r"0 xeon cores: .*found by .*proc/cpuinfo"):
            refused()


def test_arm_and_systems_without_proc_are_absent_and_say_so(root: Path) -> None:
    assert "no CPU in" in Xeon(root).probe().found
    write(root, "proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nFeatures\t: asimd\n\nHardware\t: Neoverse")
    assert (
        Xeon(root).probe().found
        == "a processor without a model name (vendor 0x41), which is no Xeon: its device is cpu"
    )
    assert Xeon(root).probe().count == 0


def test_a_list_that_does_not_parse_is_an_absence_and_not_a_crash(root: Path) -> None:
    Host().write(root)
    write(root, "sys/devices/system/node/node0/cpulist", "0-?")
    presence = Xeon(root).probe()
    assert (presence.count, "does not parse" in presence.found) == (0, True)


def test_a_guest_with_one_core_and_a_bare_tree(root: Path) -> None:
    write(root, "sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc kvm-clock acpi_pm")
    xeon = Xeon(GUEST.write(root))
    assert xeon.probe().found == "Intel(R) Xeon(R) Processor @ 2.70GHz: 1 xeon core usable of 1 online CPUs"
    assert xeon.identity().class_id == "xeon-6-model-143-2700mhz-1c-avx2-4g-kvm"
    assert xeon.place(1, 0).cores == ((0,),)
    with pytest.raises(BadInput, match=r"^--ranks 2: this host has 1 xeon core; found by .*at most 1 ranks"):
        xeon.place(2, 1)


def test_without_sys_the_cores_of_cpuinfo_are_believed(root: Path) -> None:
    host = Host(sockets=2, cores_per_node=2, smt=2)
    host.write(root)
    (root / "sys").rename(root / "hidden")
    facts = Xeon(root).identity().facts
    assert (facts["sockets"], facts["cores"], facts["threads"]) == (2, 4, 8)
    assert facts["numa_nodes"] == facts["caches"] == []


def test_the_class_ignores_what_a_boot_changes_and_keeps_what_latency_needs(root: Path, tmp_path: Path) -> None:
    def class_id(host: Host, name: str) -> str:
        return Xeon(host.write(tmp_path / name)).identity().class_id

    base = class_id(BIG, "base")
    assert class_id(Host(**{**vars(BIG), "memory_gib": 503.9}), "reboot") == base
    different = {"memory_gib": 1007.0, "model": 173, "cores_per_node": 5, "smt": 1, "flags": "avx2 hypervisor"}
    ids = [class_id(Host(**{**vars(BIG), key: value}), key) for key, value in different.items()]
    assert len({base, *ids}) == len(ids) + 1
    assert all("." not in one and "/" not in one for one in [base, *ids])


@pytest.mark.parametrize(
    ("gib", "word"),
    [
        (1.9, "2g"),
        (3.8, "4g"),
        (7.7, "8g"),
        (23.54, "24g"),
        (62.5, "64g"),
        (125.5, "128g"),
        (503.0, "512g"),
        (0.5, "1g"),
    ],
)
def test_memory_is_rounded_to_what_is_built_in(root: Path, gib: float, word: str) -> None:
    assert f"-{word}-" in Xeon(Host(memory_gib=gib).write(root)).identity().class_id


class TestLimits:
    """Affinity, offline CPUs and control groups."""

    def test_affinity_limits_the_count_and_enters_the_class(self, root: Path) -> None:
        xeon = Xeon(BIG.write(root, allowed="4-7,20-23"))
        assert xeon.probe().count == 8
        assert "-4of16c-32t-" in xeon.identity().class_id
        assert set().union(*xeon.place(2, 2).cores) == {4, 5, 6, 7}

    def test_a_mask_that_names_absent_cpus_counts_only_those_online(self, root: Path) -> None:
        assert Xeon(Host().write(root, allowed="0-127")).probe().count == 2

    def test_a_second_hyperthread_alone_is_a_core_of_its_own(self, root: Path) -> None:
        xeon = Xeon(BIG.write(root, allowed=[16, 17]))
        assert xeon.place(2, 1).cores == ((16,), (17,))

    @pytest.mark.parametrize(
        ("limits", "group", "mounted", "count"),
        [
            ({"a": "200000 100000"}, "/a", "/", 2),
            ({"a": "350000 100000"}, "/a", "/", 3),  # 3.5 CPUs: a fourth thread would be stopped in each period
            ({"a": "50000 100000"}, "/a", "/", 1),
            ({"a": "400000 100000", "a/b": "max 100000"}, "/a/b", "/", 4),  # a parent binds its children
            ({"": "200000 100000"}, "/docker/abc", "/docker/abc", 2),  # a container sees its own group at the top
            ({"sub": "100000 100000"}, "/docker/abc/sub", "/docker/abc", 1),
            ({"a": "400000 100000", "a/b": "200000 100000"}, "/a/b", "/", 2),
            ({"a": "200000 100000", "a/b": "400000 100000"}, "/a/b", "/", 2),
            ({"": "200000 100000"}, "/../elsewhere", "/", 2),  # a namespace hides where the process really is
            ({"a": "max 100000"}, "/a", "/", 32),
            ({"other": "100000 100000"}, "/a", "/", 32),
            ({"a": "6400000 100000"}, "/a", "/", 32),
        ],
    )
    def test_the_quota_of_cgroup_v2_limits_the_count(
        self, root: Path, limits: dict[str, str], group: str, mounted: str, count: int
    ) -> None:
        xeon = Xeon(cgroup_v2(BIG.write(root), limits, group=group, mounted=mounted))
        assert xeon.probe().count == count

    @pytest.mark.parametrize(("quota", "count"), [(300000, 3), (-1, 32)])
    @pytest.mark.parametrize(("group", "mounted"), [("/", "/"), ("/docker/x", "/docker/x"), ("/slice/x", "/")])
    def test_the_quota_of_cgroup_v1_limits_the_count(
        self, root: Path, quota: int, count: int, group: str, mounted: str
    ) -> None:
        xeon = Xeon(cgroup_v1(BIG.write(root), quota, group=group, mounted=mounted))
        assert xeon.probe().count == count

    def test_under_a_quota_the_cpus_are_whole_cores_of_one_node_and_always_the_same(self, root: Path) -> None:
        xeon = Xeon(cgroup_v2(BIG.write(root), {"a": "300000 100000"}, group="/a"))
        assert xeon.identity().facts["usable_cpus"] == "0-2"
        assert xeon.identity().facts["cpu_quota"] == 3.0
        assert "limits CPU time to 3 CPUs" in xeon.probe().found
        with pytest.raises(BadInput, match="--ranks 4: this host has 3 xeon cores"):
            xeon.place(4, 1)

    @pytest.mark.parametrize(
        ("directory", "stat"),
        [("a", "usage_usec 5\nthrottled_usec 2500000"), ("cpu,cpuacct/a", "throttled_time 2500000000")],
    )
    def test_throttled_periods_are_reported(self, root: Path, directory: str, stat: str) -> None:
        BIG.write(root)
        if directory == "a":
            xeon = Xeon(cgroup_v2(root, {"a": "200000 100000"}, group="/a/b"))
        else:
            xeon = Xeon(cgroup_v1(root, 200000, group="/a"))
        write(root, f"sys/fs/cgroup/{directory}/cpu.stat", f"nr_periods 70\nnr_throttled 7\n{stat}")
        now = xeon.conditions()
        assert (now["quota_periods"], now["quota_throttled"], now["quota_throttled_s"]) == (70, 7, 2.5)


def test_conditions_read_what_the_kernel_counts(root: Path) -> None:
    BIG.write(root)
    write(root, "proc/loadavg", "1.25 0.50 0.10 2/300 4242")
    write(root, "proc/stat", "cpu  100 20 30 1000 40 5 6 70 8 9\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 1")
    write(root, "proc/pressure/cpu", "some avg10=2.50 avg60=1.00 avg300=0.20 total=987654\nfull avg10=0.00 total=0")
    for cpu in (0, 1):
        write(root, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "performance")
        write(root, f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", 3 + cpu)
    now = Xeon(root).conditions()
    assert (now["load_1m"], now["load_5m"], now["load_15m"]) == (1.25, 0.5, 0.1)
    assert (now["ticks_total"], now["ticks_busy"], now["ticks_steal"]) == (1271, 161, 70)
    assert (now["pressure_avg10"], now["pressure_total_us"]) == (2.5, 987654)
    assert (now["mhz_min"], now["mhz_mean"], now["mhz_max"]) == (2000.5, 2016.0, 2031.5)
    assert (now["governor"], now["throttle_core"], now["throttle_package"]) == ("performance", 7, None)


def test_every_condition_of_an_empty_tree_is_unknown_and_none_is_zero(root: Path) -> None:
    assert set(Xeon(root).conditions().values()) == {None}
    assert set(Xeon(root).conditions()) == set(Xeon(Path("/")).conditions())
