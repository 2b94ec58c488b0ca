"""What lines of the kernel's log tell of hardware. Pure: no file, no clock.

Formats as printed by Linux 5 and 6 (`arch/x86/kernel/cpu/mce/core.c`, `drivers/edac/mce_amd.c` and `edac_mc.c`,
`drivers/acpi/apei/ghes.c`, `drivers/firmware/efi/cper.c`, `mm/memory-failure.c`) and by the drivers of NVIDIA and
Habana. PCI Express has a module of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from genqual.health.counters import pci
from genqual.health.counters.kernel_event import KernelEvent
from genqual.health.counters.pcie_events import Pcie

# NVIDIA, "XID errors": those that an application's own mistake or end raises say nothing of the hardware.
# Of a MIG instance the parenthesis goes on with ` GPU-I:05 GPU-CI:00`; drivers before 304 leave `PCI:` out.
_XID: Final = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F:.]+)[^)]*\): (?P<number>\d+)")
APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 69, 109, 110})
FATAL_XIDS: Final = frozenset({48, 63, 64, 74, 79, 94, 95, 119, 120, 121, 140})
_RECOVERED: Final = re.compile(r"154, .*recovery action changed .* to 0x0 \(None\)")

_UNCORRECTED: Final = 1 << 61  # MCi_STATUS.UC
_DEFERRED: Final = 1 << 44  # of AMD only; within Intel's count of corrected errors
_MEMORY_MASK, _MEMORY = 0xEF80, 0x0080  # the code of a memory controller's error: Intel SDM, volume 3B, 16.9.2

_MACHINE_CHECK: Final = re.compile(
    r"\[Hardware Error\]: CPU (?P<cpu>\d+): Machine Check(?P<exception> Exception)?: +[0-9a-f]+ "
    r"Bank (?P<bank>\d+): (?P<status>[0-9a-f]{8,16})"
)
_AMD_STATUS: Final = re.compile(
    r"CPU:(?P<cpu>\d+) \([0-9a-f:]+\) MC\d+_STATUS\[(?P<flags>[^]]*)\]: 0x(?P<status>[0-9a-f]+)"
)
_AMD_BEGINS: Final = re.compile(r"\[Hardware Error\]: (Corrected error|Deferred error|Uncorrected|System Fatal)")
_FIRMWARE: Final = re.compile(r"(?P<record>\{\d+\})\[Hardware Error\]: (?P<said>.*)")
_FIRMWARE_BEGINS: Final = "Hardware error from APEI"
_EDAC: Final = re.compile(r"EDAC MC(?P<mc>\d+): (?:\d+ )?(?P<kind>CE|UE) .*?\bon (?P<label>.+?)(?: \(|$)")
_EDAC_DEVICE: Final = re.compile(
    r"EDAC DEVICE\d+: (?P<kind>CE|UE): (?P<part>\S+) instance: (?P<instance>\S+) block: (?P<block>\S+)"
)
_HABANA: Final = re.compile(rf"(?:habanalabs (?:hl\d+|{pci.ADDRESS})|accel accel\d+): (?P<said>.*)")
_HABANA_CARD: Final = re.compile(rf"(?P<card>hl\d+|accel\d+|{pci.ADDRESS}): ")
_HABANA_BROKEN: Final = re.compile(r"hl_device_reset|ECC error|critical error|H/W error|Error Interrupt - HBM", re.I)
_SWITCH: Final = re.compile(
    r"nvidia-nvswitch\d+: SXid \(PCI:(?P<bus>[0-9a-fA-F:.]+)\): \d+, (?P<severity>Fatal|Non-fatal)"
)

_LINES: Final = (
    (
        re.compile(r"NVRM: GPU (?:at PCI:)?(?P<pci>[0-9a-f:.]+[0-9a-f]):? (?:GPU )?has fallen off the bus"),
        "xid_fatal",
    ),
    (re.compile(r"Memory failure: (?P<page>0x[0-9a-f]+):"), "uncorrected"),
    (re.compile(r"mce: Uncorrected hardware memory error in user-access at (?P<address>[0-9a-f]+)"), "uncorrected"),
    (re.compile(r"\[Hardware Error\]: Machine check events logged"), "machine_check_logged"),
    (re.compile(r"\[Hardware Error\]: Machine check"), "machine_check"),
    (re.compile(r"CPU(?P<cpu>\d+): (?:Core|Package) temperature (?:is )?above threshold"), "thermal"),
    (re.compile(rf"EDAC PCI\d*: .*(?:Parity|System) Error on (?P<pci>{pci.ADDRESS})"), "pcie_uncorrected"),
    (re.compile(r"NMI: PCI system error \(SERR\)"), "pcie_uncorrected"),
    (re.compile(r"\[Hardware Error\].*(?:uncorrected|Uncorrected|fatal|Fatal)|EDAC .*\bUE\b"), "uncorrected"),
    (re.compile(r"EDAC .*\bCE\b"), "corrected"),
)
"""What one line says by itself, in the order in which it is asked; its groups name the entity."""


def events(lines: Iterable[str]) -> list[KernelEvent]:
    """What `lines` tell of hardware, in order; an application's own Xid is no event, nor is a kill for memory.

    A record of several lines is one event. One whose head is not among `lines` happened before them.
    """
    found: list[KernelEvent] = []
    pcie = Pcie(found)
    for block in _blocks(lines):
        if _FIRMWARE.match(block[0]):
            for event in _firmware(block):
                pcie.details_follow(event)
                found.append(event)
        elif block[0].startswith("[Hardware Error]: ") and not _MACHINE_CHECK.search(block[0]):
            found += _amd(block)
        elif not pcie.takes(block[0]):
            found += [event for event in (_single(block[0]),) if event]
    return found


def _blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    """The lines by record: of the firmware by its number, of AMD's decoder from its first line on; else one by one."""
    blocks: list[list[str]] = []
    firmware: dict[str, list[str]] = {}
    decoded: list[str] | None = None
    for line in lines:
        record = _FIRMWARE.match(line)
        if record:
            if record["said"].startswith(_FIRMWARE_BEGINS) or record["record"] not in firmware:
                firmware[record["record"]] = []
                blocks.append(firmware[record["record"]])
            firmware[record["record"]].append(line)
        elif line.startswith("[Hardware Error]: ") and decoded is not None and not _AMD_BEGINS.match(line):
            decoded.append(line)
        else:
            blocks.append([line])
            decoded = blocks[-1] if _AMD_BEGINS.match(line) else None
    yield from blocks


def _single(line: str) -> KernelEvent | None:
    for reader in _READERS:
        if (event := reader(line)) is not None:
            return event if event.kind else None
    for pattern, kind in _LINES:
        if found := pattern.search(line):
            return KernelEvent(kind, _named(found.groupdict()), line)
    return None


def _named(groups: dict[str, str | None]) -> str:
    """The entity that a line's groups name; the host where they name none."""
    if page := groups.get("page"):
        return f"page {page}"
    if address := groups.get("address"):
        return f"page {int(address, 16) >> 12:#x}"
    if cpu := groups.get("cpu"):
        return f"cpu{cpu}"
    return pci.entity(address) if (address := groups.get("pci")) else "host"


def _xid(line: str) -> KernelEvent | None:
    if not (found := _XID.search(line)):
        return None
    number = int(found["number"])
    if number in APPLICATION_XIDS or _RECOVERED.search(line):
        return KernelEvent("", "", line)
    kind = "xid_fatal" if number in FATAL_XIDS else "xid"
    return KernelEvent(kind, pci.entity(found["bus"]), line)


def _switch(line: str) -> KernelEvent | None:
    if not (found := _SWITCH.search(line)):
        return None
    return KernelEvent("switch_fatal" if found["severity"] == "Fatal" else "switch", pci.entity(found["bus"]), line)


def _machine_check(line: str) -> KernelEvent | None:
    """The status says whether it was corrected: the line alone is printed for both."""
    if not (found := _MACHINE_CHECK.search(line)):
        return None
    status = int(found["status"], 16)
    memory = status & _MEMORY_MASK == _MEMORY
    kind = "corrected" if memory else "processor_corrected"
    if found["exception"] or status & _UNCORRECTED:
        kind = "uncorrected" if memory else "machine_check"
    return KernelEvent(kind, f"cpu{found['cpu']}", line)


def _edac(line: str) -> KernelEvent | None:
    if found := _EDAC_DEVICE.search(line):
        kind = "machine_check" if found["kind"] == "UE" else "processor_corrected"
        return KernelEvent(kind, f"{found['part']} {found['instance']} {found['block']}", line)
    if not (found := _EDAC.search(line)):
        return None
    # "any memory" and "unknown memory": the driver knows the controller only.
    label = "" if found["label"] in ("any memory", "unknown memory") else f" {found['label']}"
    return KernelEvent("uncorrected" if found["kind"] == "UE" else "corrected", f"mc{found['mc']}{label}", line)


def _habana(line: str) -> KernelEvent | None:
    """An event's name ends with SERR (one bit, corrected) or DERR; newer drivers say `critical 0` or `critical 1`."""
    found, card = _HABANA.search(line), _HABANA_CARD.search(line)
    if not found or not card or not _HABANA_BROKEN.search(found["said"]):
        return None
    said = found["said"]
    corrected = "ECC error" in said and "DERR" not in said and ("SERR" in said or "critical 0" in said)
    name = card["card"] if card["card"].startswith(("hl", "accel")) else pci.entity(card["card"])
    return KernelEvent("accelerator_corrected" if corrected else "accelerator", name, line)


_READERS: Final[tuple[Callable[[str], KernelEvent | None], ...]] = (_xid, _switch, _machine_check, _edac, _habana)


def _amd(block: list[str]) -> list[KernelEvent]:
    """One machine check as AMD's decoder prints it: a verdict, the bank's status, the unit, the address."""
    text = " ".join(block)
    if found := _AMD_STATUS.search(text):
        flags, status = found["flags"].split("|"), int(found["status"], 16)
        uncorrected = bool(status & _UNCORRECTED) or "UE" in flags
        deferred = bool(status & _DEFERRED) or "Deferred" in flags
        entity, line = f"cpu{found['cpu']}", next(line for line in block if _AMD_STATUS.search(line))
    elif _AMD_BEGINS.match(block[0]):
        uncorrected = "Uncorrected" in block[0] or "Fatal" in block[0]
        deferred, entity, line = "Deferred" in block[0], "host", block[0]
    else:
        return [event for event in (_single(block[0]),) if event]
    memory = "Unified Memory Controller" in text or "DRAM ECC" in text
    if uncorrected:
        return [KernelEvent("uncorrected" if memory else "machine_check", entity, line)]
    if deferred:
        return [KernelEvent("deferred", entity, line)]
    return [KernelEvent("corrected" if memory else "processor_corrected", entity, line)]


_FIRMWARE_KINDS: Final = {
    "memory": ("corrected", "uncorrected"),
    "PCIe": ("pcie_corrected", "pcie_uncorrected"),
    "processor": ("processor_corrected", "machine_check"),
}


def _firmware(block: list[str]) -> list[KernelEvent]:
    """The errors of one record of the firmware (APEI, CPER), each with its own severity."""
    said = [found["said"].strip() for line in block if (found := _FIRMWARE.match(line))]
    if not said[0].startswith(_FIRMWARE_BEGINS):
        return []
    severity = next((one.partition(": ")[2] for one in said if one.startswith("event severity: ")), "")
    heads = [at for at, one in enumerate(said) if re.match(r"Error \d+, type: ", one)]
    made = []
    for head, end in zip(heads, [*heads[1:], len(said)], strict=True):
        made.append(_section(said[head:end], said[head].partition("type: ")[2]))
    if not made:
        made.append(_section(said, severity))
    return made


def _section(said: list[str], severity: str) -> KernelEvent:
    text = " ".join(said)
    section = re.search(r"section_type: (.*?) ?(?:$|[a-z_]+:)", text)
    names = section[1] if section else ""
    part = next((part for part in _FIRMWARE_KINDS if part in names), "memory")
    mild = severity in ("corrected", "info")
    kind = _FIRMWARE_KINDS[part][0 if mild else 1]
    return KernelEvent(kind, _firmware_entity(said, part), text)


def _firmware_entity(said: list[str], part: str) -> str:
    fields = {key: value.strip() for key, _, value in (one.partition(":") for one in reversed(said))}
    if part == "PCIe" and re.fullmatch(pci.ADDRESS, fields.get("device_id", "")):
        return pci.entity(fields["device_id"])
    if part == "processor" and "processor_id" in fields:
        return f"processor {int(fields['processor_id'], 16):#x}"
    location = fields.get("DIMM location", "")
    if handle := re.search(r"DMI handle: (0x[0-9a-f]+)", location):
        return f"DMI handle {handle[1]}"
    if location:
        return location
    if place := re.search(r"node: ?(\d+) card: ?(\d+) module: ?(\d+)", " ".join(said)):
        return f"node {place[1]} card {place[2]} module {place[3]}"
    address = fields.get("physical_address", "")
    return f"page {int(address, 16) >> 12:#x}" if address.startswith("0x") else "host"
