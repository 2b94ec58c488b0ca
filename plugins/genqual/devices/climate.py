"""Clocks and heat of the processor, as the kernel tells them now. Reads files only; judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from genqual.devices.files import read, read_int

_HWMON: Final = "sys/class/hwmon"
_CPU: Final = "sys/devices/system/cpu"


@dataclass(frozen=True, slots=True)
class Heat:
    """One sensor, in degrees Celsius; `critical` is where its maker says that it is too hot, if the kernel knows."""

    degrees: float
    critical: float | None


@dataclass(frozen=True, slots=True)
class Climate:
    """Sensors by name, and MHz by core; empty where the kernel tells none, as in most virtual machines."""

    heat: Mapping[str, Heat] = field(default_factory=dict)
    mhz: Mapping[str, float] = field(default_factory=dict)


def climate(root: Path = Path("/")) -> Climate:
    """What the kernel's hwmon and cpufreq say now."""
    return Climate(dict(_heat(root)), dict(_mhz(root)))


def _heat(root: Path) -> list[tuple[str, Heat]]:
    found = []
    for chip in sorted((root / _HWMON).glob("hwmon*")):
        for sensor in sorted(chip.glob("temp*_input")):
            now = read_int(sensor)
            if now is None:
                continue
            of = sensor.name.removesuffix("_input")
            critical = read_int(chip / f"{of}_crit")
            name = f"{read(chip / 'name') or chip.name} {read(chip / f'{of}_label') or of} ({chip.name})"
            found.append((name, Heat(now / 1e3, critical / 1e3 if critical else None)))
    return found


def _mhz(root: Path) -> list[tuple[str, float]]:
    files = sorted((root / _CPU).glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    said = [(file.parent.parent.name.removeprefix("cpu"), read_int(file)) for file in files]
    return [(core, kilohertz / 1e3) for core, kilohertz in said if kilohertz is not None]
