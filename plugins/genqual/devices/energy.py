"""Counters of energy and sensors of power, of processors and cards: what each says now. Judges nothing, starts nothing.

A source is opened once for a window and read many times: initialising a card's library takes longer than reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from genqual.devices import hlml, nvml
from genqual.devices.counted import told
from genqual.devices.rapl import read_energy
from genqual.devices.tool import ToolFailed

_MILLI: Final = 1e-3
_POWER_INSTANT: Final = 186  # NVML_FI_DEV_POWER_INSTANT, mW: the other query is a mean over a second since Ampere


@dataclass(frozen=True, slots=True)
class Reading:
    """By part (a package, a card): joules counted since some moment, watts now, and where a counter begins again.

    A part that has no counter, or no sensor, is in the other mapping only. `why_not`: nothing could be read.
    """

    joules: Mapping[str, float] = field(default_factory=dict)
    watts: Mapping[str, float] = field(default_factory=dict)
    wraps: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ""


Read = Callable[[], Reading]
Source = Callable[[], AbstractContextManager[Read]]


def source_of(torch_device: str, lease: Collection[str] = (), root: Path = Path("/")) -> Source | str:
    """What measures the energy of a group that holds `lease`, or why nothing does.

    Of a processor it is every package, whatever else runs there. Of cards it is those of the lease, without the host.
    """
    if torch_device == "cpu":
        return lambda: rapl(root)
    numbers = [_number(one) for one in lease]
    if torch_device in ("cuda", "hpu") and (not numbers or None in numbers):
        return f"it is not known which cards of {torch_device} the ranks have"
    held = frozenset(one for one in numbers if one is not None)
    if torch_device == "cuda":
        return lambda: nvml_cards(held)
    if torch_device == "hpu":
        return lambda: hlml_cards(held, root)
    return f"no counter of energy of {torch_device} is read"


def _number(lease: str) -> int | None:
    """Of `cuda:GPU-5f/3` or `hpu:3` the card's number."""
    word = lease.replace("/", ":").rpartition(":")[2]
    return int(word) if word.isdigit() else None


@contextmanager
def rapl(root: Path) -> Iterator[Read]:
    """The processors' packages. They have no sensor of power: what `power_meter` of ACPI tells is the whole host."""

    def read() -> Reading:
        now = read_energy(root)
        scale = 1e-6
        joules = {name: value * scale for name, value in now.microjoules.items()}
        return Reading(joules, {}, {name: limit * scale for name, limit in now.ranges.items()}, now.why_not)

    yield read


@contextmanager
def nvml_cards(numbers: Collection[int]) -> Iterator[Read]:
    """NVIDIA cards by their index. Raises ToolFailed where there is no NVML."""
    with nvml.library() as lib:

        def handle(number: int) -> tuple[Any, str]:
            return told(lib, lib.NVMLError, "nvmlDeviceGetHandleByIndex", number)

        handles = {number: handle(number) for number in sorted(numbers)}

        def power(card: Any) -> Any:
            fields, _ = told(lib, lib.NVMLError, "nvmlDeviceGetFieldValues", card, [_POWER_INSTANT])
            if fields is not None and fields[0].nvmlReturn == 0:
                return fields[0].value.uiVal
            return told(lib, lib.NVMLError, "nvmlDeviceGetPowerUsage", card)[0]

        def energy(card: Any) -> Any:
            return told(lib, lib.NVMLError, "nvmlDeviceGetTotalEnergyConsumption", card)[0]

        yield lambda: _cards(handles, energy, power)


@contextmanager
def hlml_cards(numbers: Collection[int], root: Path) -> Iterator[Read]:
    """Gaudis by their module id. Raises ToolFailed where there is no HLML, or where a card is not among its cards."""
    with hlml.library(root) as lib:
        found: dict[int, tuple[Any, str]] = {}
        for index in range(lib.hlmlDeviceGetCount()):
            handle, why = told(lib, lib.HLMLError, "hlmlDeviceGetHandleByIndex", index)
            module, _ = (None, why) if handle is None else told(lib, lib.HLMLError, "hlmlDeviceGetModuleID", handle)
            if module is not None and module in numbers:
                found[int(module)] = (handle, "")
        missing = sorted(set(numbers) - set(found))
        if missing:
            raise ToolFailed(f"HLML tells of no module {', '.join(map(str, missing))}")

        def power(card: Any) -> Any:
            return told(lib, lib.HLMLError, "hlmlDeviceGetPowerUsage", card)[0]

        def energy(card: Any) -> Any:
            return told(lib, lib.HLMLError, "hlmlDeviceGetTotalEnergyConsumption", card)[0]

        yield lambda: _cards(found, energy, power)


def _cards(
    handles: Mapping[int, tuple[Any, str]], energy: Callable[[Any], Any], power: Callable[[Any], Any]
) -> Reading:
    """Energy and power of each card by (handle, why it has none); both queries answer in thousandths, or None."""
    joules: dict[str, float] = {}
    watts: dict[str, float] = {}
    for number, (card, why) in handles.items():
        if card is None:
            return Reading(why_not=f"card {number}: {why}")
        counted, now = energy(card), power(card)
        if counted is None and now is None:
            return Reading(why_not=f"card {number} tells neither its energy nor its power")
        if counted is not None:
            joules[f"card {number}"] = counted * _MILLI
        if now is not None:
            watts[f"card {number}"] = now * _MILLI
    return Reading(joules, watts)
