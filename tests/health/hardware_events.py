"""A catalogue of hardware events: each in the words of its kernel, its driver or its vendor's library.

Formats: Linux `mce/core.c`, `mce_amd.c`, `edac_mc.c`, `aer.c`, `dpc.c`, `ghes.c`, `cper.c`, `memory-failure.c`,
`therm_throt.c`; open-gpu-kernel-modules for Xids; `gaudi2.c` for Gaudi.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genqual.health.checks.counters import Window
from genqual.health.finding import Finding
from tests.health.stand_ins import (
    AER,
    CARDS,
    CONTROLLERS,
    CPUS,
    DIMMS,
    GROUP,
    LINKS,
    MC,
    Cards,
    aer,
    endpoint,
    gaudi,
    interrupts,
    log,
    module_entity,
    nvidia,
    put,
)

Strike = Callable[[Path, Cards], None]
# The test's verdict is the hardware's; the node is unfit; no more than told.
Effect = Literal["hardware", "unfit", "told"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happens, and what has to be said of it: by which check, of what, which component, with which effect."""

    name: str
    check: str
    entity: str
    component: str
    effect: Effect
    strike: Strike


def written(name: str, text: str) -> Strike:
    return lambda root, cards: put(root, name, text)


def logged(*lines: str) -> Strike:
    return lambda root, cards: log(root, *lines)


def card_says(card: int, name: str, value: int = 5) -> Strike:
    return lambda root, cards: cards.counts.update({(card, name): value})


def told(root: Path, cards: Cards, *strikes: Strike) -> list[Finding]:
    """What a window says in which these happen."""
    window = Window.begin(root)
    for strike in strikes:
        strike(root, cards)
    return window.end(root)


def edac() -> Iterator[Event]:
    kinds: tuple[tuple[str, Effect], ...] = (("ce", "told"), ("ue", "hardware"))
    for mc in range(CONTROLLERS):
        for kind, effect in kinds:
            for dimm in range(DIMMS):
                file = f"{MC}/mc{mc}/dimm{dimm}/dimm_{kind}_count"
                yield Event(f"edac-{kind}", "edac", module_entity(mc, dimm), "memory", effect, written(file, "10\n"))
            # An error without a place is counted by the controller alone.
            file = f"{MC}/mc{mc}/{kind}_noinfo_count"
            yield Event(f"edac-{kind}-noinfo", "edac", f"mc{mc}", "memory", effect, written(file, "4\n"))


def processors() -> Iterator[Event]:
    rows: tuple[tuple[str, str, Effect], ...] = (
        ("MCE", "processor", "hardware"), ("THR", "processor", "told"), ("DFR", "memory", "unfit"),
        ("TRM", "cooling", "unfit"),
    )  # fmt: skip
    for cpu in range(CPUS):
        for row, component, effect in rows:
            text = interrupts({row: (cpu, 2)})
            yield Event(f"irq-{row}", "interrupts", f"cpu{cpu}", component, effect, written("proc/interrupts", text))
        for kind in ("core", "package"):
            file = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{kind}_throttle_count"
            yield Event(f"throttle-{kind}", "throttle", f"cpu{cpu}", "cooling", "unfit", written(file, "8\n"))


def buses() -> Iterator[Event]:
    errors: tuple[tuple[str, str, Effect], ...] = (
        ("aer_dev_correctable", "RxErr", "told"), ("aer_dev_correctable", "BadDLLP", "told"),
        ("aer_dev_nonfatal", "CmpltTO", "hardware"), ("aer_dev_nonfatal", "TLP", "hardware"),
        ("aer_dev_nonfatal", "UnsupReq", "unfit"), ("aer_dev_fatal", "DLP", "hardware"),
        ("aer_dev_fatal", "MalfTLP", "hardware"),
    )  # fmt: skip
    assert {file for file, _, _ in errors} == set(AER)
    for card in range(CARDS):
        place = f"sys/bus/pci/devices/{endpoint(card)}"
        entity = f"PCI:{endpoint(card)}"
        for file, error, effect in errors:
            text = aer(file, error)
            yield Event(f"aer-{error}", "aer", entity, "interconnect", effect, written(f"{place}/{file}", text))
        narrow = written(f"{place}/current_link_width", "8\n")
        yield Event("pcie-width", "pcie_link", entity, "interconnect", "unfit", narrow)
        slow = written(f"{place}/current_link_speed", "2.5 GT/s PCIe\n")
        yield Event("pcie-speed", "pcie_link", entity, "interconnect", "told", slow)
        down = written(f"{place}/current_link_speed", "Unknown\n")
        yield Event("pcie-speed-unknown", "pcie_link", entity, "interconnect", "told", down)


def nvml() -> Iterator[Event]:
    signals: tuple[tuple[str, int, str, Effect], ...] = (
        ("ecc_corrected", 5, "accelerator", "told"), ("ecc_uncorrected", 5, "accelerator", "hardware"),
        ("rows_c", 5, "accelerator", "told"), ("rows_u", 5, "accelerator", "hardware"),
        ("pending", 1, "accelerator", "unfit"), ("failed", 1, "accelerator", "hardware"),
        ("pcie_replay", 5, "interconnect", "told"), ("policy 1", 7_000_000, "cooling", "unfit"),
        ("reasons", 0x48, "cooling", "unfit"), ("reasons", 0x20, "cooling", "unfit"),
        ("reasons", 0x88, "power", "unfit"), ("reasons", 0x08, "accelerator", "unfit"),
    )  # fmt: skip
    # Replay, recovery, CRC of flits and data, ECC.
    link_effects: tuple[Effect, ...] = ("told", "unfit", "told", "told", "told")
    for card in range(CARDS):
        for name, value, component, effect in signals:
            label = f"nvml-{name.replace(' ', '-')}-{value:x}"
            yield Event(label, "nvml", nvidia(card), component, effect, card_says(card, name, value))
        for link in range(LINKS):
            entity = f"{nvidia(card)} nvlink {link}"
            for kind, effect in enumerate(link_effects):
                says = card_says(card, f"link {link} kind {kind}")
                yield Event(f"nvlink-{kind}", "nvml", entity, "interconnect", effect, says)
            down = card_says(card, f"link {link} down", 1)
            yield Event("nvlink-down", "nvml", entity, "interconnect", "hardware", down)


def hlml() -> Iterator[Event]:
    signals: tuple[tuple[str, int, str, Effect], ...] = (
        ("ecc_corrected", 5, "accelerator", "told"), ("ecc_uncorrected", 5, "accelerator", "hardware"),
        ("rows 0", 5, "accelerator", "told"), ("rows 1", 5, "accelerator", "unfit"),
        ("pending", 1, "accelerator", "unfit"), ("pcie_replay", 5, "interconnect", "told"),
        ("reasons", 2, "cooling", "unfit"),
    )  # fmt: skip
    for card in range(CARDS):
        for name, value, component, effect in signals:
            label = f"hlml-{name.replace(' ', '-')}"
            yield Event(label, "hlml", gaudi(card), component, effect, card_says(card + 50, name, value))


FATAL_XIDS = {
    48: "An uncorrectable double bit error (DBE) has been detected on GPU in the framebuffer at partition 6",
    63: "Row Remapper: New row marked for remapping, reset gpu to activate.",
    64: "Row Remapper: Failed to remap row",
    74: "NVLink: fatal error detected on link 6(0x0, 0x0, 0x10000, 0x0, 0x0, 0x0, 0x0)",
    79: "GPU has fallen off the bus.",
    94: "Contained: CE User Channel (0x9). RST: No, D-RST: No",
    95: "Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No",
    119: "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL).",
    140: "An uncorrectable ECC error detected (possible firmware handling failure) DRAM:-1840691462, LTC:0, MMU:0",
}
OTHER_XIDS = {
    32: "Channel ID 00000009 intr 00800000",
    62: "Internal micro-controller halt",
    92: "High single-bit ECC error rate",
    154: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
}
HARMLESS = {
    "xid-recovered": "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x1 (Reset) to 0x0 (None)",
    "oom": "Out of memory: Killed process 4711 (python) total-vm:9000kB, anon-rss:8000kB, UID:0 oom_score_adj:0",
    "oom-group": "Memory cgroup out of memory: Killed process 4711 (python) total-vm:9000kB, anon-rss:8000kB, UID:0",
    "segfault": "python[77]: segfault at 0 ip 00007f1 sp 00007f2 error 4 in libtorch_cpu.so[7f1000+8000]",
    "edac-loads": "EDAC MC0: Giving out device to module skx_edac controller Skylake Socket#0 IMC#0: DEV 0000:3a:0a.0",
    "edac-version": "EDAC MC: Ver: 3.0.0",
    "aer-loads": "pcieport 0000:00:01.0: AER: enabled with IRQ 26",
    "aer-advisory": "nvme 0000:17:00.0: AER:    [13] NonFatalErr            (First)",
    "mce-loads": "mce: CPU0: Thermal monitoring enabled (TM1)",
    "cooled": "CPU3: Core temperature/speed normal",
    "habana-job": "habanalabs hl0: Command submission 5 has not finished in time!",
    "nvidia-loads": "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.86.15",
    "ghes-loads": "GHES: APEI firmware first mode is enabled by APEI bit and WHEA _OSC.",
    "sxid-details": "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 24007, Severity 1 Engine instance 44",
}
"""Lines that look like hardware and are none; lines that an application causes."""


def xids() -> Iterator[Event]:
    for card in range(CARDS):
        bus, entity = f"0000:{0x3B + card:02x}:00", nvidia(card)
        for number, said in FATAL_XIDS.items():
            line = f"NVRM: Xid (PCI:{bus}): {number}, pid='<unknown>', name=<unknown>, {said}"
            yield Event(f"xid-{number}", "kernel_log", entity, "accelerator", "hardware", logged(line))
        for number, said in OTHER_XIDS.items():
            line = f"NVRM: Xid (PCI:{bus}): {number}, pid=1234, name=python, {said}"
            yield Event(f"xid-{number}", "kernel_log", entity, "accelerator", "unfit", logged(line))
        forms = {
            "mig": f"NVRM: Xid (PCI:{bus} GPU-I:05 GPU-CI:00): 94, pid=7194, name=python, Contained: CE User Channel",
            "old": f"NVRM: Xid ({bus}): 48, An uncorrectable double bit error",
            "lost": f"NVRM: GPU {bus}.0: GPU has fallen off the bus.",
            "lost-at": f"NVRM: GPU at PCI:{bus} has fallen off the bus and is not responding to commands.",
        }
        for name, line in forms.items():
            yield Event(f"xid-{name}", "kernel_log", entity, "accelerator", "hardware", logged(line))
    words: tuple[tuple[str, Effect], ...] = (("Fatal", "hardware"), ("Non-fatal", "told"))
    for number, (word, effect) in enumerate(words):
        line = f"nvidia-nvswitch{number}: SXid (PCI:0000:c{number}:00.0): 20009, {word}, Link 28 RX Short Error Rate"
        entity = f"PCI:0000:c{number}:00.0"
        yield Event(f"sxid-{word}", "kernel_log", entity, "interconnect", effect, logged(line))


def machine_checks() -> Iterator[Event]:
    for cpu in range(0, CPUS, 2):
        raw = f"mce: [Hardware Error]: CPU {cpu}: Machine Check"
        rest = (
            "mce: [Hardware Error]: TSC 0 ADDR 4658130c0 MISC 102285 ",
            "mce: [Hardware Error]: PROCESSOR 0:50654 TIME 1506182841 SOCKET 0 APIC 4 microcode 2000064",
        )
        amd = f"[Hardware Error]: CPU:{cpu} (19:1:1) MC"
        memory = "[Hardware Error]: Unified Memory Controller Ext. Error Code: 0, DRAM ECC error."
        cache = "[Hardware Error]: L2 Cache Ext. Error Code: 1, L2M Data Array ECC Error."
        tail = "[Hardware Error]: cache level: L3/GEN, tx: GEN, mem-tx: RD"
        records: dict[str, tuple[str, Effect, tuple[str, ...]]] = {
            "exception": ("processor", "hardware", (f"{raw} Exception: 5 Bank 7: be00000000800400", *rest)),
            "uncorrected": ("processor", "hardware", (f"{raw}: 0 Bank 1: bd80000000100134", *rest)),
            "uncorrected-memory": ("memory", "hardware", (f"{raw}: 0 Bank 7: bd80000000100091", *rest)),
            "corrected-memory": ("memory", "told", (f"{raw}: 0 Bank 7: 8c00004000010091", *rest)),
            "corrected-cache": ("processor", "told", (f"{raw}: 0 Bank 3: cc5eb2c000100135", *rest)),
            "amd-corrected-memory": ("memory", "told", (
                "[Hardware Error]: Corrected error, no action required.",
                f"{amd}17_STATUS[Over|CE|MiscV|AddrV|-|-|SyndV|CECC|-|-|-]: 0xdc2040000000011b",
                "[Hardware Error]: Error Addr: 0x0000000065aa27c0", memory, tail)),
            "amd-corrected-cache": ("processor", "told", (
                "[Hardware Error]: Corrected error, no action required.",
                f"{amd}2_STATUS[-|CE|MiscV|AddrV|-|-|SyndV|CECC|-|-|-]: 0x9c2040000001010b", cache, tail)),
            "amd-deferred": ("memory", "unfit", (
                "[Hardware Error]: Deferred error, no action required.",
                f"{amd}14_STATUS[-|-|-|AddrV|PCC|-|-|Deferred|-|-]: 0x8700900800000000",
                "[Hardware Error]: Error Addr: 0x0095464100000020")),
            "amd-uncorrected-memory": ("memory", "hardware", (
                "[Hardware Error]: Uncorrected, software containable error.",
                f"{amd}17_STATUS[-|UE|MiscV|AddrV|-|-|SyndV|UECC|-|-|-]: 0xbc2020000000011b", memory, tail)),
            "amd-fatal": ("processor", "hardware", (
                "[Hardware Error]: System Fatal error.",
                f"{amd}1_STATUS[-|UE|MiscV|AddrV|PCC|-|SyndV|-|-|-|-]: 0xbea0000000000108", cache)),
        }  # fmt: skip
        for name, (component, effect, lines) in records.items():
            yield Event(f"mce-{name}", "kernel_log", f"cpu{cpu}", component, effect, logged(*lines))
        hot = f"CPU{cpu}: Package temperature is above threshold, cpu clock is throttled (total events = 219)"
        yield Event("mce-hot", "kernel_log", f"cpu{cpu}", "cooling", "unfit", logged(hot))
        older = f"mce: CPU{cpu}: Core temperature above threshold, cpu clock throttled (total events = 1)"
        yield Event("mce-hot-older", "kernel_log", f"cpu{cpu}", "cooling", "unfit", logged(older))
    only = logged("mce: [Hardware Error]: Machine check events logged")
    yield Event("mce-logged", "kernel_log", "host", "processor", "told", only)
    user = logged("mce: Uncorrected hardware memory error in user-access at 82080a56696")
    yield Event("mce-user", "kernel_log", "page 0x82080a56", "memory", "hardware", user)
    page = logged("Memory failure: 0x40fa6: Killing mca-recover:1296 due to hardware memory corruption")
    yield Event("page", "kernel_log", "page 0x40fa6", "memory", "hardware", page)
    page = logged("Memory failure: 0xaeccd: recovery action for dirty LRU page: Recovered")
    yield Event("page-recovered", "kernel_log", "page 0xaeccd", "memory", "hardware", page)


def memory_lines() -> Iterator[Event]:
    for mc in range(CONTROLLERS):
        where = "(channel:0 slot:1 page:0x1f0 offset:0x0 grain:32"
        labels = [module_entity(mc, dimm).partition(" ")[2] for dimm in range(DIMMS)]
        lines: dict[str, tuple[str, Effect, str]] = {
            "ue": (f"mc{mc} {labels[1]}", "hardware",
                   f"1 UE memory read error on {labels[1]} {where} -  err_code:0x0000:0x009f)"),
            "ce": (f"mc{mc} {labels[0]}", "told", f"3 CE memory scrubbing error on {labels[0]} {where} syndrome:0x0)"),
            "ue-rank": (f"mc{mc} mc#{mc}csrow#1channel#0", "hardware",
                        f"1 UE on mc#{mc}csrow#1channel#0 (csrow:1 channel:0 page:0x0 offset:0x0 grain:64)"),
            "ce-two": (f"mc{mc} DIMM_A1 or DIMM_B1", "told", f"1 CE on DIMM_A1 or DIMM_B1 {where} syndrome:0x1a)"),
            "ue-any": (f"mc{mc}", "hardware", "1 UE memory read error on any memory ( page:0x0 offset:0x0 grain:8)"),
            "ue-firmware": (f"mc{mc} LP5x_0 LP5x_0", "hardware",
                            "1 UE multi-bit ECC on LP5x_0 LP5x_0 (node:0 card:0 module:0 rank:0 bank:2 device:28)"),
        }  # fmt: skip
        for name, (entity, effect, said) in lines.items():
            yield Event(f"edac-log-{name}", "kernel_log", entity, "memory", effect, logged(f"EDAC MC{mc}: {said}"))
    for kind, effect in (("UE", "hardware"), ("CE", "told")):
        line = f"EDAC DEVICE0: {kind}: thunderx2_l2c instance: l2c0 block: l2c1 count: 1 'tag'"
        yield Event(f"edac-device-{kind}", "kernel_log", "thunderx2_l2c l2c0 l2c1", "processor", effect, logged(line))
    parity = "EDAC PCI: Detected Parity Error on 0000:17:00.0"
    yield Event("edac-pci", "kernel_log", "PCI:0000:17:00.0", "interconnect", "hardware", logged(parity))


def firmware_record(number: int, severity: str, section: str, *details: str) -> tuple[str, ...]:
    said = (
        "Hardware error from APEI Generic Hardware Error Source: 1", f"event severity: {severity}",
        f" Error 0, type: {severity}", f"  section_type: {section}", *(f"  {one}" for one in details),
    )  # fmt: skip
    return tuple(f"{{{number}}}[Hardware Error]: {one}" for one in said)


def firmware() -> Iterator[Event]:
    severities: tuple[tuple[str, Effect], ...] = (
        ("corrected", "told"),
        ("recoverable", "hardware"),
        ("fatal", "hardware"),
    )
    for severity, effect in severities:
        for module in range(2):
            where = (f"physical_address: 0x000000{module}aeccde180", "error_type: 3, multi-bit ECC",
                     f"DIMM location: P{module}_Node0 DIMM_A1")  # fmt: skip
            lines = firmware_record(module + 1, severity, "memory error", *where)
            entity = f"P{module}_Node0 DIMM_A1"
            yield Event(f"ghes-memory-{severity}", "kernel_log", entity, "memory", effect, logged(*lines))
            # The device's own id and the vendor's line have the same word.
            place = ("port_type: 4, root port", "command: 0x4010, status: 0x0143", f"device_id: 0000:{module}0:02.2",
                     "slot: 0", "vendor_id: 0x8086, device_id: 0x2f06", "aer_uncor_status: 0x00100000")  # fmt: skip
            lines = firmware_record(3, severity, "PCIe error", *place)
            entity = f"PCI:0000:{module}0:02.2"
            yield Event(f"ghes-pcie-{severity}", "kernel_log", entity, "interconnect", effect, logged(*lines))
            # The kernel then asks the device: only requests that it refused, or a completion that never came too.
            statuses: dict[str, Effect] = {"00100000": "unfit" if severity == "recoverable" else effect,
                                           "00104000": effect}  # fmt: skip
            for status, what in statuses.items():
                more = f"pcieport 0000:{module}0:02.2: AER: aer_status: 0x{status}, aer_mask: 0x00000000"
                told_of = logged(*lines, more)
                name = f"ghes-pcie-{severity}-{status}"
                yield Event(name, "kernel_log", entity, "interconnect", what, told_of)
            where = ("processor_type: 0, IA32/X64", "error_type: 0x08", f"processor_id: 0x000000000000008{module}")
            lines = firmware_record(4, severity, "general processor error", *where)
            entity = f"processor 0x8{module}"
            yield Event(f"ghes-cpu-{severity}", "kernel_log", entity, "processor", effect, logged(*lines))
    handle = firmware_record(7, "recoverable", "memory error", "DIMM location: not present. DMI handle: 0x0020")
    yield Event("ghes-handle", "kernel_log", "DMI handle 0x0020", "memory", "hardware", logged(*handle))
    slot = firmware_record(8, "recoverable", "memory error", "node: 0 card: 1 module: 2 rank: 0 bank: 3")
    yield Event("ghes-place", "kernel_log", "node 0 card 1 module 2", "memory", "hardware", logged(*slot))
    page = firmware_record(9, "recoverable", "memory error", "physical_address: 0x0000000040fa6000")
    yield Event("ghes-page", "kernel_log", "page 0x40fa6", "memory", "hardware", logged(*page))


def bus_lines() -> Iterator[Event]:
    port = "pcieport 0000:00:01.0"
    for card in range(CARDS):
        bus = endpoint(card)
        entity = f"PCI:{bus}"

        def details(driver: str, severity: str, status: str, name: str, mask: str = "00000000") -> tuple[str, ...]:
            return (
                f"{driver}: PCIe Bus Error: severity={severity}, type=Transaction Layer, (Requester ID)",
                f"{driver}:   device [8086:a115] error status/mask={status}/{mask}", f"{driver}:    [{name}",
            )  # fmt: skip

        device = f"nvme {bus}"
        lost = "20] UnsupReq               (First)"
        records: dict[str, tuple[Effect, tuple[str, ...]]] = {
            "correctable": ("told", (f"{port}: AER: Correctable error message received from {bus}",
                                     *details(device, "Correctable", "00000040", " 6] BadTLP"))),
            "corrected": ("told", (f"{port}: AER: Multiple Corrected error received: {bus}",
                                   *details(device, "Corrected", "00000001", " 0] RxErr"))),
            "nonfatal": ("hardware", (f"{port}: AER: Uncorrectable (Non-Fatal) error message received from {bus}",
                                      *details(device, "Uncorrectable (Non-Fatal)", "00004000", "14] CmpltTO"))),
            "fatal": ("hardware", (f"{port}: AER: Uncorrected (Fatal) error received: {bus}",
                                   *details(device, "Uncorrected (Fatal)", "00040000", "18] MalfTLP"))),
            "fatal-alone": ("hardware", (f"{port}: AER: Uncorrectable (Fatal) error message received from {bus}",)),
            "unannounced": ("hardware", details(device, "Uncorrectable (Fatal)", "00000010", " 4] DLP")),
            "refused": ("unfit", (f"{port}: AER: Uncorrectable (Non-Fatal) error message received from {bus}",
                                  *details(device, "Uncorrectable (Non-Fatal)", "00100000", lost))),
            "refused-and-lost": ("hardware", (f"{port}: AER: Uncorrected (Non-Fatal) error received: {bus}",
                                              *details(device, "Uncorrected (Non-Fatal)", "00104000", lost))),
            "refused-beside-masked": ("unfit", (
                f"{port}: AER: Uncorrected (Non-Fatal) error received: {bus}",
                *details(device, "Uncorrected (Non-Fatal)", "00104000", lost, mask="00004000"))),
            "older": ("hardware", (f"{port}: AER: Uncorrected (Fatal) error received: id={0x17 + card:02x}00",)),
            "contained": ("hardware", (f"pcieport {bus}: DPC: containment event, status:0x1f01 source:0x0000",)),
        }  # fmt: skip
        for name, (effect, lines) in records.items():
            yield Event(f"aer-log-{name}", "kernel_log", entity, "interconnect", effect, logged(*lines))
    serr = logged("NMI: PCI system error (SERR) for reason a1 on CPU 0.")
    yield Event("serr", "kernel_log", "host", "interconnect", "hardware", serr)


def gaudi_lines() -> Iterator[Event]:
    for card in range(CARDS):
        bus = f"0000:{0x4D + card:02x}:00.0"
        said = "ECC error detected. address: 0x1f00. Syndrome: 0x3. wrapper id 2. critical"
        records: dict[str, tuple[Effect, str]] = {
            "serr": ("told", f"habanalabs {bus}: TPC0_ECC_SERR: {said} 0."),
            "derr": ("hardware", f"habanalabs {bus}: TPC0_ECC_DERR: {said} 1."),
            "accel": ("hardware", f"accel accel{card}: HBM0_MC0_ECC_DERR: {said} 1."),
            "critical": ("hardware", f"habanalabs {bus}: critical error, resetting"),
        }
        for name, (effect, line) in records.items():
            yield Event(f"gaudi-{name}", "kernel_log", gaudi(card), "accelerator", effect, logged(line))
    named = logged("habanalabs hl5: HBM_1_DERR: ECC error detected. address: 0x0. Syndrom: 0x0. block id 1")
    yield Event("gaudi-no-sysfs", "kernel_log", "hl5", "accelerator", "hardware", named)


def memory_limit() -> Iterator[Event]:
    kept = "low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\n"
    strike = written(f"{GROUP}/memory.events", kept)
    yield Event("oom-kill", "oom", f"group {GROUP}", "memory limit", "unfit", strike)


EVENTS: tuple[Event, ...] = tuple(
    event
    for kind in (edac, processors, buses, nvml, hlml, xids, machine_checks, memory_lines, firmware, bus_lines,
                 gaudi_lines, memory_limit)
    for event in kind()
)  # fmt: skip
