"""A host with every counter, as files, and the bindings of NVML and HLML with cards of our own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genqual.devices.hlml import LIBRARY

CPUS, CARDS, CONTROLLERS, DIMMS, LINKS = 8, 4, 4, 2, 3
GROUP = "sys/fs/cgroup/slurm/job_7"
MC = "sys/devices/system/edac/mc"
UNCORRECTABLE = (
    "Undefined", "DLP", "SDES", "TLP", "FCP", "CmpltTO", "CmpltAbrt", "UnxCmplt", "RxOF", "MalfTLP", "ECRC", "UnsupReq",
    "ACSViol", "UncorrIntErr", "BlockedTLP", "AtomicOpBlocked", "TLPBlockedErr", "PoisonTLPBlocked",
)  # fmt: skip
CORRECTABLE = ("RxErr", "BadTLP", "BadDLLP", "Rollover", "Timeout", "NonFatalErr", "CorrIntErr", "HeaderOF")
AER = {
    "aer_dev_correctable": (CORRECTABLE, "TOTAL_ERR_COR"),
    "aer_dev_nonfatal": (UNCORRECTABLE, "TOTAL_ERR_NONFATAL"),
    "aer_dev_fatal": (UNCORRECTABLE, "TOTAL_ERR_FATAL"),
}


class Unsupported(Exception):
    """The base of the errors of both bindings here; its text is what NVML says."""

    def __init__(self, text: str = "Not Supported") -> None:
        super().__init__(text)


def nvidia(card: int) -> str:
    """The entity of an NVIDIA card, as everything should call it."""
    return f"PCI:0000:{0x3B + card:02x}:00.0"


def gaudi(card: int) -> str:
    return f"PCI:0000:{0x4D + card:02x}:00.0"


def endpoint(card: int) -> str:
    """The address of some other device on the bus."""
    return f"0000:{0x17 + card:02x}:00.0"


class Cards:
    """Counts and states by (card, name); Gaudis are numbered from 50.

    NVML's functions have the names, arguments and answers of nvidia-ml-py, HLML's those of habana-pyhlml. A count that
    nobody set is 3 and a state 0: there were errors before. `fails` says which function raises, on which card.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[int, str], int] = {}
        self.fails: dict[tuple[int, str], str] = {}
        self.number = CARDS

    def get(self, card: int, name: str, otherwise: int = 3) -> int:
        return self.counts.get((card, name), otherwise)

    def asked(self, function: str, offset: int, answer: Callable[..., Any]) -> Callable[..., Any]:
        def ask(card: int, *arguments: Any) -> Any:
            for key in ((card + offset, function), (card + offset, "")):
                if key in self.fails:
                    raise Unsupported(self.fails[key])
            return answer(card + offset, *arguments)

        return ask

    def nvml(self) -> Any:
        ecc = ("ecc_corrected", "ecc_uncorrected")

        def links(card: int, link: int) -> None:
            if link >= LINKS:
                raise Unsupported("Invalid Argument")

        def state(card: int, link: int) -> int:
            links(card, link)
            return 1 - self.get(card, f"link {link} down", 0)

        def link_errors(card: int, link: int, kind: int) -> int:
            links(card, link)
            return self.get(card, f"link {link} kind {kind}")

        def rows(card: int) -> list[int]:
            return [self.get(card, "rows_c"), self.get(card, "rows_u"), self.get(card, "pending", 0),
                    self.get(card, "failed", 0)]  # fmt: skip

        functions: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetHandleByIndex": lambda card: card,
            "nvmlDeviceGetPciInfo": lambda card: SimpleNamespace(busId=f"00000000:{0x3B + card:02X}:00.0".encode()),
            "nvmlDeviceGetTotalEccErrors": lambda card, kind, counter: (
                self.get(card, ecc[kind]) if counter == 0 else 99
            ),
            "nvmlDeviceGetRemappedRows": rows,
            "nvmlDeviceGetRetiredPages": lambda card, cause: iter([(4096, 1)] * self.get(card, f"pages {cause}")),
            "nvmlDeviceGetRetiredPagesPendingStatus": lambda card: self.get(card, "pages pending", 0),
            "nvmlDeviceGetPcieReplayCounter": lambda card: self.get(card, "pcie_replay"),
            "nvmlDeviceGetNvLinkState": state,
            "nvmlDeviceGetNvLinkErrorCounter": link_errors,
            "nvmlDeviceGetViolationStatus": lambda card, policy: SimpleNamespace(
                referenceTime=9, violationTime=self.get(card, f"policy {policy}")
            ),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda card: self.get(card, "reasons", 0),
        }
        return SimpleNamespace(
            NVMLError=Unsupported, NVML_NVLINK_MAX_LINKS=18, nvmlInit=lambda: None, nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: self.number,
            **{name: self.asked(name, 0, one) for name, one in functions.items()},
        )  # fmt: skip

    def hlml(self) -> Any:
        ecc = ("ecc_corrected", "ecc_uncorrected")
        functions: dict[str, Callable[..., Any]] = {
            "hlmlDeviceGetHandleByIndex": lambda card: card - 50,
            "hlmlDeviceGetPCIInfo": lambda card: SimpleNamespace(bus_id=f"0000:{0x4D + card - 50:02x}:00.0".encode()),
            "hlmlDeviceGetTotalECCErrors": lambda card, kind, counter: (
                self.get(card, ecc[kind]) if counter == 0 else 99
            ),
            "hlmlDeviceGetReplacedRowsCount": lambda card, cause: self.get(card, f"rows {cause}"),
            "hlmlDeviceGetReplacedRowsPendingStatus": lambda card: self.get(card, "pending", 0),
            "hlmlDeviceGetPCIEReplayCounter": lambda card: self.get(card, "pcie_replay"),
            "hlmlDeviceGetCurrentClocksThrottleReasons": lambda card: self.get(card, "reasons", 0),
        }
        return SimpleNamespace(
            HLMLError=Unsupported, hlmlInit=lambda: None, hlmlShutdown=lambda: None, hlmlDeviceGetCount=lambda: CARDS,
            **{name: self.asked(name, 50, one) for name, one in functions.items()},
        )  # fmt: skip


def bound(monkeypatch: pytest.MonkeyPatch) -> Cards:
    """Cards, with the vendors' bindings over them in place."""
    made = Cards()
    monkeypatch.setitem(sys.modules, "pynvml", made.nvml())
    monkeypatch.setitem(sys.modules, "pyhlml", made.hlml())
    return made


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def log(root: Path, *lines: str) -> None:
    """Add records to the kernel's log, numbered on."""
    kept = (root / "dev/kmsg").read_text().splitlines()
    number = int(kept[-1].split(",")[1]) + 1
    with (root / "dev/kmsg").open("a") as stream:
        stream.writelines(f"2,{number + at},{6000 + at},-;{line}\n" for at, line in enumerate(lines))


def interrupts(counts: Mapping[str, tuple[int, int]] | None = None, *, without: int | None = None) -> str:
    """Rows as the kernel writes them; `counts` says which CPU's number of a row is raised to what."""
    cpus = [cpu for cpu in range(CPUS) if cpu != without]
    rows = []
    for row in ("NMI", "MCE", "THR", "DFR", "TRM"):
        cpu, value = (counts or {}).get(row, (-1, 0))
        rows.append(f"{row}: " + " ".join(str(value if one == cpu else 1) for one in cpus) + f"   {row} text\n")
    head = "           " + " ".join(f"CPU{cpu}" for cpu in cpus) + "\n"
    return head + "".join(rows) + "MCP: " + "41 " * len(cpus) + "  Machine check polls\n"


def aer(file: str, *errors: str) -> str:
    """A file of AER's statistics: two errors of old, and one message more with `errors` for its reasons."""
    names, total = AER[file]
    counts = {name: (2 if name == names[3] else 0) + (name in errors) for name in names}
    return "".join(f"{name} {count}\n" for name, count in counts.items()) + f"{total} {2 + bool(errors)}\n"


def module_entity(mc: int, dimm: int) -> str:
    return f"mc{mc} CPU_SrcID#0_MC#{mc}_Chan#0_DIMM#{dimm}"


def host(root: Path) -> Path:
    """Old errors everywhere, which are not the window's."""
    for mc in range(CONTROLLERS):
        for name, text in (("ce_count", "20"), ("ue_count", "3"), ("ce_noinfo_count", "2"), ("ue_noinfo_count", "1"),
                           ("seconds_since_reset", "5000"), ("mc_name", "Skylake Socket#0 IMC#0")):  # fmt: skip
            put(root, f"{MC}/mc{mc}/{name}", f"{text}\n")
        for dimm in range(DIMMS):
            place = f"{MC}/mc{mc}/dimm{dimm}"
            put(root, f"{place}/dimm_label", module_entity(mc, dimm).partition(" ")[2] + "\n")
            put(root, f"{place}/dimm_ce_count", "9\n")
            put(root, f"{place}/dimm_ue_count", "1\n")
    put(root, "proc/interrupts", interrupts())
    for cpu in range(CPUS):
        for kind in ("core", "package"):
            put(root, f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{kind}_throttle_count", "7\n")
    for card in range(CARDS):
        place = f"sys/bus/pci/devices/{endpoint(card)}"
        for file in AER:
            put(root, f"{place}/{file}", aer(file))
        for name, text in (("current_link_width", "16"), ("max_link_width", "16"),
                           ("current_link_speed", "32.0 GT/s PCIe"), ("max_link_speed", "32.0 GT/s PCIe")):  # fmt: skip
            put(root, f"{place}/{name}", f"{text}\n")
        accel = root / f"sys/class/accel/accel{card}"
        accel.mkdir(parents=True)
        (accel / "device").symlink_to(f"../../../0000:{0x4D + card:02x}:00.0")
    put(root, "proc/self/cgroup", "0::/slurm/job_7\n")
    put(root, "proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    put(root, f"{GROUP}/memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\n")
    put(root, "dev/kmsg", "6,100,5000,-;EDAC MC0: 1 UE memory read error on OLD (channel:0)\n")
    put(root, LIBRARY, "")
    return root
