"""NVIDIA GPUs through NVML. Loads the driver's library only when asked, creates no CUDA context, imports no torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from genqual.cases import Json
from genqual.devices.cards import Card
from genqual.devices.tool import ToolFailed

MIG: Final = "in MIG mode, where a process sees one instance only; turn MIG off to use it"

# Bits of nvmlClocksEventReasons that slow a GPU down; idle, and clocks somebody set, are no disturbance.
REASONS: Final = (
    (0x004, "sw_power_cap"),
    (0x008, "hw_slowdown"),
    (0x010, "sync_boost"),
    (0x020, "sw_thermal_slowdown"),
    (0x040, "hw_thermal_slowdown"),
    (0x080, "hw_power_brake_slowdown"),
    (0x200, "board_limit"),
    (0x400, "reliability"),
)


def reasons(mask: int) -> list[str]:
    """The names of the throttle reasons set in `mask`, lowest bit first."""
    return [name for bit, name in REASONS if mask & bit]


def cards() -> tuple[Card, ...]:
    """Every GPU that NVML knows, unusable ones with their problem. Raises ToolFailed where there is no NVML."""
    with library() as lib:
        driver = _ask(lib, "nvmlSystemGetDriverVersion")
        return tuple(_card(lib, index, driver) for index in range(lib.nvmlDeviceGetCount()))


def readings() -> list[Json]:
    """Clocks, heat and throttling of each GPU now; a lost GPU is null. Raises ToolFailed where there is no NVML."""
    with library() as lib:
        return [_reading(lib, index) for index in range(lib.nvmlDeviceGetCount())]


@contextmanager
def library() -> Iterator[Any]:
    """NVML, begun and ended again. Raises ToolFailed where there is none, or where it fails."""
    try:
        with warnings.catch_warnings():
            # The abandoned package of the same name warns on import, which a strict filter would make an error of ours.
            warnings.simplefilter("ignore")
            import pynvml as lib
    except ImportError as error:
        raise ToolFailed(f"pynvml is not installed ({error})") from error
    try:
        lib.nvmlInit()
        try:
            yield lib
        finally:
            lib.nvmlShutdown()
    except lib.NVMLError as error:
        raise ToolFailed(f"NVML: {error}") from error


def _card(lib: Any, index: int, driver: Any) -> Card:
    try:
        handle = lib.nvmlDeviceGetHandleByIndex(index)
        memory = lib.nvmlDeviceGetMemoryInfo(handle).total
    except lib.NVMLError as error:
        return Card(index, None, driver=_text(driver), problem=f"NVML: {error}")
    mig = _ask(lib, "nvmlDeviceGetMigMode", handle)
    pci = _ask(lib, "nvmlDeviceGetPciInfo", handle)
    capability = _ask(lib, "nvmlDeviceGetCudaComputeCapability", handle)
    cap = _ask(lib, "nvmlDeviceGetEnforcedPowerLimit", handle)
    clocks: dict[str, Json] = {
        "sm": _ask(lib, "nvmlDeviceGetMaxClockInfo", handle, lib.NVML_CLOCK_SM),
        "memory": _ask(lib, "nvmlDeviceGetMaxClockInfo", handle, lib.NVML_CLOCK_MEM),
    }
    return Card(
        number=index,
        name=_text(_ask(lib, "nvmlDeviceGetName", handle)),
        memory_bytes=int(memory),
        driver=_text(driver),
        uuid=_text(_ask(lib, "nvmlDeviceGetUUID", handle)),
        bus=_text(pci.busId) if pci else None,
        problem=MIG if mig and mig[0] else "",
        more={
            "compute_capability": ".".join(str(part) for part in capability) if capability else None,
            "firmware": _text(_ask(lib, "nvmlDeviceGetVbiosVersion", handle)),
            "power_cap_w": None if cap is None else cap / 1000,
            "clocks_mhz": {name: clock for name, clock in clocks.items() if clock is not None} or None,
        },
    )


def _reading(lib: Any, index: int) -> Json:
    try:
        handle = lib.nvmlDeviceGetHandleByIndex(index)
    except lib.NVMLError:
        return None
    power = _ask(lib, "nvmlDeviceGetPowerUsage", handle)
    use = _ask(lib, "nvmlDeviceGetUtilizationRates", handle)
    memory = _ask(lib, "nvmlDeviceGetMemoryInfo", handle)
    # The older name, which both old and new drivers answer.
    mask = _ask(lib, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    throttled: list[Json] | None = None if mask is None else list(reasons(mask))
    return {
        "number": index,
        "temperature_c": _ask(lib, "nvmlDeviceGetTemperature", handle, lib.NVML_TEMPERATURE_GPU),
        "power_w": None if power is None else power / 1000,
        "sm_mhz": _ask(lib, "nvmlDeviceGetClockInfo", handle, lib.NVML_CLOCK_SM),
        "memory_mhz": _ask(lib, "nvmlDeviceGetClockInfo", handle, lib.NVML_CLOCK_MEM),
        "utilization_percent": None if use is None else use.gpu,
        "memory_used_bytes": None if memory is None else int(memory.used),
        "throttle_reasons": throttled,
    }


def _ask(lib: Any, function: str, *arguments: Any) -> Any:
    """One NVML query; None where this GPU, driver or binding does not support it."""
    try:
        return getattr(lib, function)(*arguments) if hasattr(lib, function) else None
    except lib.NVMLError:
        return None


def _text(value: Any) -> str | None:
    # Bindings before 11.510 return bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else None if value is None else str(value)
