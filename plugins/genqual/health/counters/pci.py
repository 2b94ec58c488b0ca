"""One name for one PCI device, whoever tells of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ADDRESS: Final = r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"
_PARTS: Final = re.compile(r"([0-9a-fA-F]+):([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})(?:\.([0-7]))?")


def entity(address: str) -> str:
    """`PCI:0000:3b:00.0` for every way to write it; the text itself behind `PCI:` where it is no address.

    NVML writes the domain with eight digits and capitals, sysfs with four, and an Xid leaves the function out, which
    is 0 for every GPU.
    """
    parts = _PARTS.fullmatch(address.strip())
    if parts is None:
        return f"PCI:{address}"
    domain, bus, slot = (int(part, 16) for part in parts.groups()[:3])
    return f"PCI:{domain:04x}:{bus:02x}:{slot:02x}.{parts[4] or 0}"


def of_source_id(number: str, beside: str) -> str:
    """The entity of a requester's id of 16 bits, as older kernels write it, in the domain of the address `beside`."""
    value = int(number, 16)
    return entity(f"{beside.split(':', 1)[0]}:{value >> 8:02x}:{value >> 3 & 31:02x}.{value & 7}")


def placed(name: str, root: Path) -> str:
    """The PCI device of a node that a driver names (`hl3`, `accel0`), where sysfs shows it; else the name."""
    for kind in ("accel", "habanalabs") if re.fullmatch(r"(?:hl|accel)\d+", name) else ():
        device = root / "sys/class" / kind / name / "device"
        if device.is_symlink():
            return entity(device.readlink().name)
    return name
