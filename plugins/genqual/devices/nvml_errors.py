"""What NVIDIA GPUs counted, and their state, through NVML: functions of nvidia-ml-py, numbers of `nvml.h`."""

from __future__ import annotations

from typing import Any, Final

from genqual.devices.counted import Counted, answering, part, told
from genqual.devices.nvml import REASONS, library

_CORRECTED, _UNCORRECTED, _VOLATILE = 0, 1, 0  # NVML_MEMORY_ERROR_TYPE_*, NVML_VOLATILE_ECC
_SINGLE_BIT, _DOUBLE_BIT = 0, 1  # NVML_PAGE_RETIREMENT_CAUSE_*
_THERMAL: Final = 1  # NVML_PERF_POLICY_THERMAL
_LINK_ERRORS: Final = {  # NVML_NVLINK_ERROR_DL_*
    "nvlink_replay": (0,),
    "nvlink_recovery": (1,),
    "nvlink_crc": (2, 3, 4),  # of flits, of data, and the data's ECC
}
_BIT: Final = {name: bit for bit, name in REASONS}
_THERMAL_SLOWDOWN: Final = _BIT["sw_thermal_slowdown"] | _BIT["hw_thermal_slowdown"]


def errors() -> dict[str, dict[str, Counted]]:
    """By bus id, and below it by link (`""` is the card itself): counters, states, and why a signal is not told.

    ECC counters are those since the driver was loaded. A card that is lost is left out. Raises ToolFailed where there
    is no NVML.
    """
    with library() as lib:
        cards = answering(lib, lib.NVMLError, "nvml", pci="nvmlDeviceGetPciInfo", bus="busId")
        return {bus: _card(lib, handle) for bus, handle in cards}


def _card(lib: Any, handle: Any) -> dict[str, Counted]:
    def ask(function: str, *arguments: Any) -> tuple[Any, str]:
        return told(lib, lib.NVMLError, function, handle, *arguments)

    own = Counted()
    own.count("ecc_corrected", ask("nvmlDeviceGetTotalEccErrors", _CORRECTED, _VOLATILE))
    own.count("ecc_uncorrected", ask("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _VOLATILE))
    own.count("pcie_replay", ask("nvmlDeviceGetPcieReplayCounter"))
    rows = ask("nvmlDeviceGetRemappedRows")
    if rows[0] is None and (pages := ask("nvmlDeviceGetRetiredPages", _SINGLE_BIT))[0] is not None:
        # Before Ampere pages are retired, and no rows remapped.
        own.count("pages_retired_corrected", part(pages, _length))
        own.count("pages_retired_uncorrected", part(ask("nvmlDeviceGetRetiredPages", _DOUBLE_BIT), _length))
        own.level("pages_retired_pending", ask("nvmlDeviceGetRetiredPagesPendingStatus"))
    else:
        own.count("rows_remapped_corrected", part(rows, lambda one: one[0]))
        own.count("rows_remapped_uncorrected", part(rows, lambda one: one[1]))
        own.level("row_remap_pending", part(rows, lambda one: bool(one[2])))
        own.level("row_remap_failed", part(rows, lambda one: bool(one[3])))
    own.count("thermal_ns", part(ask("nvmlDeviceGetViolationStatus", _THERMAL), lambda one: one.violationTime))
    # The older name, which both old and new drivers answer.
    mask = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    own.level("thermal_slowdown", part(mask, lambda one: bool(one & _THERMAL_SLOWDOWN)))
    own.level("power_brake", part(mask, lambda one: bool(one & _BIT["hw_power_brake_slowdown"])))
    # The general bit is set beside each particular one; alone it has another reason.
    particular = _BIT["hw_thermal_slowdown"] | _BIT["hw_power_brake_slowdown"]
    own.level("hw_slowdown", part(mask, lambda one: bool(one & _BIT["hw_slowdown"] and not one & particular)))
    links = _links(lib, handle)
    if not links:
        own.silent["nvlink"] = "not one of its links can be read"
    return {"": own, **links}


def _length(pages: Any) -> int:
    # nvidia-ml-py gives an iterator over (address, time stamp).
    return len(list(pages))


def _links(lib: Any, handle: Any) -> dict[str, Counted]:
    """Each NVLink that answers anything."""
    found = {}
    for number in range(getattr(lib, "NVML_NVLINK_MAX_LINKS", 18)):
        link = Counted()
        state = told(lib, lib.NVMLError, "nvmlDeviceGetNvLinkState", handle, number)
        link.level("nvlink_down", part(state, lambda one: not one))
        for signal, kinds in _LINK_ERRORS.items():
            answers = [
                told(lib, lib.NVMLError, "nvmlDeviceGetNvLinkErrorCounter", handle, number, one) for one in kinds
            ]
            known = [int(value) for value, _ in answers if value is not None]
            link.count(signal, (sum(known), "") if known else answers[0])
        if link.counts or link.levels:
            found[f"nvlink {number}"] = link
    return found
