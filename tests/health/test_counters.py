"""Counters round a window, over trees of files in the kernel's own formats, and over this kernel's log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from genqual.devices.rapl import joules, read_energy
from genqual.health.counters.base import Reading, changes
from genqual.health.counters.edac import Edac
from genqual.health.counters.interrupts import Interrupts
from genqual.health.counters.kernel_events import APPLICATION_XIDS, events
from genqual.health.counters.kernel_log import lines_since, mark, since
from genqual.health.counters.throttle import Throttle


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def edac(root: Path, *, corrected: int, uncorrected: int) -> Path:
    place = "sys/devices/system/edac/mc/mc0"
    return tree(
        root,
        {
            f"{place}/ce_count": f"{corrected}\n",
            f"{place}/ue_count": f"{uncorrected}\n",
            f"{place}/dimm3/dimm_label": "CPU_SrcID#0_MC#1_Chan#0_DIMM#1\n",
            f"{place}/dimm3/dimm_ce_count": f"{corrected}\n",
            f"{place}/dimm3/dimm_ue_count": f"{uncorrected}\n",
        },
    )


def test_memory_errors_are_told_by_module(tmp_path: Path) -> None:
    before = Edac().read(edac(tmp_path, corrected=7, uncorrected=0))
    after = Edac().read(edac(tmp_path, corrected=7, uncorrected=1))
    found = {(one.entity, one.signal): one.amount for one in changes("edac", before, after)}
    assert found["mc0 CPU_SrcID#0_MC#1_Chan#0_DIMM#1", "uncorrected"] == 1
    assert found["mc0", "uncorrected"] == 1
    assert found["mc0", "corrected"] == 0, "seven errors of before the window are not the window's"


@pytest.mark.parametrize("source", [Edac(), Throttle(), Interrupts()], ids=lambda one: one.name)
def test_what_a_kernel_does_not_have_is_unavailable_and_no_zero(
    source: Edac | Throttle | Interrupts, tmp_path: Path
) -> None:
    reading = source.read(tmp_path)
    assert reading.why_not
    (one,) = changes(source.name, reading, reading)
    assert one.amount is None
    assert one.note == reading.why_not


def test_a_counter_that_was_reset_or_came_late_says_no_number() -> None:
    before = Reading({("mc0", "corrected"): 7.0, ("mc1", "corrected"): 0.0})
    after = Reading({("mc0", "corrected"): 2.0, ("mc2", "corrected"): 3.0})
    found = {one.entity: one for one in changes("edac", before, after)}
    assert [one.amount for one in found.values()] == [None, None, None]
    assert "reset" in found["mc0"].note
    assert "vanished" in found["mc1"].note
    assert "appeared" in found["mc2"].note


def test_machine_checks_are_told_by_cpu_and_polls_are_not(tmp_path: Path) -> None:
    head = "            CPU0       CPU1       \n"
    row = "MCE:          {}          {}   Machine check exceptions\nMCP:         41         41   Machine check polls\n"
    before = Interrupts().read(tree(tmp_path, {"proc/interrupts": head + row.format(0, 0)}))
    after = Interrupts().read(tree(tmp_path, {"proc/interrupts": head + row.format(0, 1)}))
    found = {one.entity: one.amount for one in changes("interrupts", before, after) if one.signal == "machine_check"}
    assert found == {"cpu0": 0, "cpu1": 1}
    assert {one.signal for one in changes("interrupts", before, after)} == {"machine_check"}


def test_throttling_is_told_by_core_and_package(tmp_path: Path) -> None:
    place = "sys/devices/system/cpu/cpu1/thermal_throttle"
    files = {f"{place}/core_throttle_count": "4", f"{place}/package_throttle_count": "9"}
    before = Throttle().read(tree(tmp_path, files))
    after = Throttle().read(tree(tmp_path, files | {f"{place}/core_throttle_count": "6"}))
    found = {(one.entity, one.signal): one.amount for one in changes("throttle", before, after)}
    assert found == {("cpu1", "core_throttled"): 2, ("cpu1", "package_throttled"): 0}


def rapl(root: Path, microjoules: int) -> Path:
    place = "sys/class/powercap/intel-rapl:0"
    return tree(
        root,
        {
            f"{place}/name": "package-0",
            f"{place}/energy_uj": str(microjoules),
            f"{place}/max_energy_range_uj": "262143328850",
            f"{place}:0/name": "core",  # a domain within the package
            f"{place}:0/energy_uj": str(microjoules),
            f"{place}:0/max_energy_range_uj": "262143328850",
        },
    )


def test_energy_counts_a_package_once_and_through_its_wrap(tmp_path: Path) -> None:
    first = read_energy(rapl(tmp_path, 1_000_000))
    assert joules(first, read_energy(rapl(tmp_path, 3_500_000))) == pytest.approx(2.5)
    late = read_energy(rapl(tmp_path, 262_143_328_850 - 1_000_000))
    assert joules(late, read_energy(rapl(tmp_path, 500_000))) == pytest.approx(1.5)
    nothing = read_energy(tmp_path / "nothing")
    assert nothing.why_not
    assert joules(first, nothing) is None


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400", "machine_check"),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#1_Chan#0_DIMM#1", "uncorrected"),
        ("EDAC MC0: 1 CE memory scrubbing error on CPU_SrcID#0_MC#1_Chan#0_DIMM#1", "corrected"),
        ("Memory failure: 0x1234: recovery action for dirty LRU page: Recovered", "uncorrected"),
        ("pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0", "pcie_uncorrected"),
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.", "xid_fatal"),
        ("NVRM: Xid (PCI:0000:3b:00): 62, pid=1234, Internal micro-controller halt", "xid"),
    ],
)
def test_hardware_events_of_the_kernel_are_known(line: str, kind: str) -> None:
    (event,) = events([line])
    assert event.kind == kind
    if kind.startswith("xid"):
        assert event.entity == "PCI:0000:3b:00.0"


def test_an_application_s_own_xid_raises_nothing() -> None:
    lines = [f"NVRM: Xid (PCI:0000:3b:00): {number}, pid=77, name=python" for number in sorted(APPLICATION_XIDS)]
    assert not events([*lines, "usb 1-1: new high-speed USB device", "python[77]: segfault at 0 ip 0"])


def test_the_log_is_read_from_the_mark_on_and_a_gap_is_said(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("6,100,5000,-;EDAC MC0: 1 UE memory read error on X\n")
    start = mark(log)
    assert since(start, log) == [], "what was there before is not the window's"
    with log.open("a") as stream:
        stream.write("2,101,6000,-;EDAC MC0: 1 UE memory read error on Y\n SUBSYSTEM=x\n")
    found = since(start, log)
    assert not isinstance(found, str)
    assert [event.text[-1] for event in found] == ["Y"]
    log.write_text("2,900,9000,-;EDAC MC0: 1 UE memory read error on Z\n")
    assert "overwritten" in str(since(start, log))
    assert mark(tmp_path / "none").why_not


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK | os.W_OK), reason="/dev/kmsg needs root")
def test_this_kernel_s_own_log() -> None:
    start = mark()
    if start.why_not:
        pytest.skip(start.why_not)
    with Path("/dev/kmsg").open("w") as stream:
        stream.write("genqual: a line that its own test wrote\n")  # harmless: others may watch this log
    found = lines_since(start)
    assert not isinstance(found, str)
    assert any(line.endswith("a line that its own test wrote") for line in found)
