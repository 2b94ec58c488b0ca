"""Injected hardware events, one at a time: each is told of its own device, with its severity, and of no other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genqual.devices.hlml import LIBRARY
from genqual.health.checks.counters import Window
from genqual.health.counters.kernel_log import APPLICATION_XIDS
from genqual.health.finding import Finding, Outcome, verdict_of
from genqual.health.outcomes import table

CPUS, CARDS = 8, 4
HEAD = "           " + " ".join(f"CPU{cpu}" for cpu in range(CPUS)) + "\n"
AER = {
    "aer_dev_correctable": ("corrected", "Receiver Error {n}\nBad TLP 0\nTOTAL_ERR_COR {n}\n"),
    "aer_dev_nonfatal": ("nonfatal", "Undefined 0\nData Link Protocol 0\nTOTAL_ERR_NONFATAL {n}\n"),
    "aer_dev_fatal": ("fatal", "Undefined 0\nFlow Control Protocol {n}\nTOTAL_ERR_FATAL {n}\n"),
}
GROUP = "sys/fs/cgroup/slurm/job_7"

Strike = Callable[[Path, "Cards"], None]


class Cards:
    """Stand-ins of the vendors' libraries, with the functions and arguments of their bindings: counts by (card, name).

    NVML's signatures are those of nvidia-ml-py, HLML's those of habana-pyhlml.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[int, str], int] = {}

    def get(self, card: int, name: str) -> int:
        return self.counts.get((card, name), 3)

    def nvml(self) -> Any:
        class NVMLError(Exception):
            pass

        ecc = ("ecc_corrected", "ecc_uncorrected")
        return SimpleNamespace(
            NVMLError=NVMLError,
            NVML_NVLINK_MAX_LINKS=2,
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: CARDS,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetPciInfo=lambda card: SimpleNamespace(busId=f"00000000:{0x3B + card:02X}:00.0".encode()),
            nvmlDeviceGetTotalEccErrors=lambda card, kind, counter: self.get(card, ecc[kind]) if counter == 0 else 99,
            nvmlDeviceGetRemappedRows=lambda card: (
                self.get(card, "rows_remapped_corrected"), self.get(card, "rows_remapped_uncorrected"), False, False
            ),
            nvmlDeviceGetPcieReplayCounter=lambda card: self.get(card, "pcie_replay"),
            nvmlDeviceGetNvLinkErrorCounter=lambda card, link, kind: (
                self.get(card, "nvlink_error") if (link, kind) == (1, 2) else 0
            ),
        )  # fmt: skip

    def hlml(self) -> Any:
        class HLMLError(Exception):
            pass

        ecc = ("ecc_corrected", "ecc_uncorrected")
        return SimpleNamespace(
            HLMLError=HLMLError,
            hlmlInit=lambda: None,
            hlmlShutdown=lambda: None,
            hlmlDeviceGetCount=lambda: CARDS,
            hlmlDeviceGetHandleByIndex=lambda index: index,
            hlmlDeviceGetPCIInfo=lambda card: SimpleNamespace(bus_id=f"0000:{0x4D + card:02x}:00.0".encode()),
            hlmlDeviceGetTotalECCErrors=lambda card, kind, counter: (
                self.get(card + 50, ecc[kind]) if counter == 0 else 99
            ),
            hlmlDeviceGetReplacedRowsCount=lambda card, cause: (
                self.get(card + 50, "rows_replaced") if cause == 1 else 99
            ),
            hlmlDeviceGetPCIEReplayCounter=lambda card: self.get(card + 50, "pcie_replay"),
        )  # fmt: skip


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def interrupts(**counts: tuple[int, int]) -> str:
    """Rows as the kernel writes them; `counts` says which CPU's number of a row is raised to what."""
    rows = []
    for row in ("NMI", "MCE", "THR", "DFR", "TRM"):
        cpu, value = counts.get(row, (-1, 0))
        rows.append(f"{row}: " + " ".join(str(value if one == cpu else 1) for one in range(CPUS)) + f"   {row} text\n")
    return HEAD + "".join(rows) + "MCP: " + "41 " * CPUS + "  Machine check polls\n"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    made = Cards()
    monkeypatch.setitem(sys.modules, "pynvml", made.nvml())
    monkeypatch.setitem(sys.modules, "pyhlml", made.hlml())
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with every counter: old errors everywhere, which are not the window's."""
    for mc in range(4):
        for dimm in range(2):
            place = f"sys/devices/system/edac/mc/mc{mc}"
            put(tmp_path, f"{place}/ce_count", "9")
            put(tmp_path, f"{place}/ue_count", "1")
            put(tmp_path, f"{place}/dimm{dimm}/dimm_label", f"CPU#0_Chan#{mc}_DIMM#{dimm}")
            put(tmp_path, f"{place}/dimm{dimm}/dimm_ce_count", "9")
            put(tmp_path, f"{place}/dimm{dimm}/dimm_ue_count", "1")
    put(tmp_path, "proc/interrupts", interrupts())
    for cpu in range(CPUS):
        for kind in ("core", "package"):
            put(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{kind}_throttle_count", "7")
    for card in range(CARDS):
        for file, (_, text) in AER.items():
            put(tmp_path, f"sys/bus/pci/devices/0000:{0x17 + card:02x}:00.0/{file}", text.format(n=2))
    put(tmp_path, "proc/self/cgroup", "0::/slurm/job_7\n")
    put(tmp_path, "proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    put(tmp_path, f"{GROUP}/memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n")
    put(tmp_path, "dev/kmsg", "6,100,5000,-;EDAC MC0: 1 UE memory read error on OLD (channel:0)\n")
    put(tmp_path, LIBRARY, "")
    return tmp_path


def logged(line: str) -> Strike:
    def strike(root: Path, cards: Cards) -> None:
        with (root / "dev/kmsg").open("a") as stream:
            stream.write(f"2,101,6000,-;{line}\n")

    return strike


def written(name: str, text: str) -> Strike:
    return lambda root, cards: put(root, name, text)


def counted(card: int, name: str) -> Strike:
    return lambda root, cards: cards.counts.update({(card, name): 5})


def events() -> list[tuple[str, str, str, Strike]]:
    """(check, signal, entity, what happens)."""
    made: list[tuple[str, str, str, Strike]] = []
    for mc in range(4):
        for dimm in range(2):
            place, entity = f"sys/devices/system/edac/mc/mc{mc}/dimm{dimm}", f"mc{mc} CPU#0_Chan#{mc}_DIMM#{dimm}"
            made.append(("edac", "uncorrected", entity, written(f"{place}/dimm_ue_count", "2")))
            made.append(("edac", "corrected", entity, written(f"{place}/dimm_ce_count", "10")))
    rows = {"MCE": "machine_check", "THR": "threshold", "DFR": "deferred_error", "TRM": "thermal_event"}
    for cpu in range(CPUS):
        for row, signal in rows.items():
            text = interrupts(**{row: (cpu, 2)})
            made.append(("interrupts", signal, f"cpu{cpu}", written("proc/interrupts", text)))
        for kind in ("core", "package"):
            name = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{kind}_throttle_count"
            made.append(("throttle", f"{kind}_throttled", f"cpu{cpu}", written(name, "8")))
    for card in range(CARDS):
        bus = f"0000:{0x17 + card:02x}:00.0"
        for file, (signal, text) in AER.items():
            made.append(("aer", signal, f"PCI:{bus}", written(f"sys/bus/pci/devices/{bus}/{file}", text.format(n=3))))
        for signal in ("ecc_corrected", "ecc_uncorrected", "rows_remapped_corrected", "rows_remapped_uncorrected",
                       "pcie_replay", "nvlink_error"):  # fmt: skip
            made.append(("nvml", signal, f"PCI:00000000:{0x3B + card:02X}:00.0", counted(card, signal)))
        for signal in ("ecc_corrected", "ecc_uncorrected", "rows_replaced", "pcie_replay"):
            made.append(("hlml", signal, f"PCI:0000:{0x4D + card:02x}:00.0", counted(card + 50, signal)))
        xid = f"NVRM: Xid (PCI:0000:{0x3B + card:02x}:00): 79, pid=1234, GPU has fallen off the bus."
        made.append(("kernel_log", "xid_fatal", f"PCI:0000:{0x3B + card:02x}:00", logged(xid)))
        lost = f"pcieport 0000:00:01.0: AER: Uncorrectable (Fatal) error message received from {bus}"
        made.append(("kernel_log", "pcie_uncorrected", f"PCI:{bus}", logged(lost)))
    kept = "low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\n"
    made.append(("oom", "oom_kill", f"group {GROUP}", written(f"{GROUP}/memory.events", kept)))
    lines = {
        ("uncorrected", "mc1 CPU#1_DIMM#0"): "EDAC MC1: 1 UE memory read error on CPU#1_DIMM#0 (channel:1 slot:0)",
        ("corrected", "mc2 CPU#1_DIMM#1"): "EDAC MC2: 3 CE memory scrubbing error on CPU#1_DIMM#1 (channel:0)",
        ("uncorrected", "page 0x1f00"): "Memory failure: 0x1f00: recovery action for dirty LRU page: Recovered",
        ("machine_check", "cpu3"): "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400",
        ("accelerator", "hl5"): "habanalabs hl5: critical error, resetting",
        ("accelerator", "PCI:0000:4d:00.0"): "habanalabs 0000:4d:00.0: HBM double ECC error at row 7",
        ("pcie_corrected", "PCI:0000:02:00.0"): "nvme 0000:02:00.0: PCIe Bus Error: severity=Corrected, type=Data Link",
        ("xid", "PCI:0000:3b:00"): "NVRM: Xid (PCI:0000:3b:00): 62, pid=1, Internal micro-controller halt",
    }
    made += [("kernel_log", signal, entity, logged(line)) for (signal, entity), line in lines.items()]
    return made


EVENTS = events()
IDS = [f"{check}.{signal}-{entity}" for check, signal, entity, _ in EVENTS]


def told(root: Path, cards: Cards, strike: Strike | None) -> list[Finding]:
    window = Window.begin(root)
    if strike is not None:
        strike(root, cards)
    return window.end(root)


def test_there_are_a_hundred_and_more() -> None:
    assert len({(check, signal, entity) for check, signal, entity, _ in EVENTS}) == len(EVENTS) >= 100


@pytest.mark.parametrize(("check", "signal", "entity", "strike"), EVENTS, ids=IDS)
def test_an_event_is_told_of_its_device(
    root: Path, cards: Cards, check: str, signal: str, entity: str, strike: Strike
) -> None:
    found = [one for one in told(root, cards, strike) if one.component]
    assert [(one.check, one.entity) for one in found] == [(check, entity)], found
    meaning = table()[f"{check}.{signal}"]
    (one,) = found
    assert (one.severity, one.action) == (meaning.severity, meaning.action)
    mild = meaning.severity in ("note", "warning")
    assert one.outcome is (Outcome.OK if mild else Outcome.BAD)
    verdict = verdict_of([one], required=[], node="n", hardware_class="c", level="1")
    assert verdict.verdict == ("fit" if mild else "unfit")


def test_a_quiet_window_says_nothing_and_old_errors_are_not_its_own(root: Path, cards: Cards) -> None:
    found = told(root, cards, None)
    assert not [one for one in found if one.component], found
    assert {one.check: str(one.outcome) for one in found} == {
        **dict.fromkeys(("edac", "interrupts", "throttle", "aer", "oom", "nvml", "hlml", "kernel_log"), "ok"),
        "energy": "unavailable",
    }


@pytest.mark.parametrize("number", sorted(APPLICATION_XIDS))
def test_an_application_s_xid_changes_no_verdict(root: Path, cards: Cards, number: int) -> None:
    line = f"NVRM: Xid (PCI:0000:3b:00): {number}, pid=77, name=python, Graphics exception"
    assert not [one for one in told(root, cards, logged(line)) if one.component or one.outcome is Outcome.BAD]


def test_a_host_without_counters_has_none_and_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for binding in ("pynvml", "pyhlml"):
        monkeypatch.setitem(sys.modules, binding, None)
    found = told(tmp_path, Cards(), None)
    assert {one.outcome for one in found} == {Outcome.UNAVAILABLE}
    assert all(one.signal is None and one.evidence for one in found)


def test_a_card_that_is_lost_in_the_window_is_no_pass(root: Path, cards: Cards) -> None:
    def lose(root: Path, cards: Cards) -> None:
        sys.modules["pynvml"].nvmlDeviceGetCount = lambda: CARDS - 1  # type: ignore[attr-defined]

    found = [one for one in told(root, cards, lose) if one.outcome is Outcome.UNKNOWN]
    assert {one.entity for one in found} == {f"PCI:00000000:{0x3B + CARDS - 1:02X}:00.0"}
    assert verdict_of(found, required=[], node="n", hardware_class="c", level="1").verdict == "unfit"


def test_a_log_that_was_overwritten_within_the_window_is_unknown(root: Path, cards: Cards) -> None:
    found = told(root, cards, written("dev/kmsg", "6,900,7000,-;harmless\n"))
    assert [one.outcome for one in found if one.check == "kernel_log"] == [Outcome.UNKNOWN]


@pytest.mark.parametrize(("limit", "said"), [(262_143_328_850, 2.5), (1_000, None)], ids=["long", "wraps at once"])
def test_energy_of_a_window_or_why_there_is_none(root: Path, cards: Cards, limit: int, said: float | None) -> None:
    place = "sys/class/powercap/intel-rapl:0"
    for name, text in (("name", "package-0"), ("energy_uj", "100"), ("max_energy_range_uj", str(limit))):
        put(root, f"{place}/{name}", text)
    (one,) = [one for one in told(root, cards, written(f"{place}/energy_uj", "2500100")) if one.check == "energy"]
    assert one.signal == (pytest.approx(said) if said else None)
    assert one.outcome is (Outcome.OK if said else Outcome.UNAVAILABLE), one
