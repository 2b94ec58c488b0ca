"""What Gaudi cards counted, and their state, through HLML: functions of habana-pyhlml, numbers of `hlml.h`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from genqual.devices.counted import Counted, answering, part, told
from genqual.devices.hlml import library

_CORRECTED, _UNCORRECTED, _VOLATILE = 0, 1, 0  # HLML_MEMORY_ERROR_TYPE_*, HLML_VOLATILE_ECC
_SINGLE_BIT, _DOUBLE_BIT = 0, 1  # HLML_ROW_REPLACEMENT_CAUSE_*
_THERMAL: Final = 1 << 1  # HLML_CLOCKS_THROTTLE_REASON_THERMAL; the other reason is the power limit, which is no fault


def errors(root: Path) -> dict[str, dict[str, Counted]]:
    """By bus id, below it `""` for the card itself: counters, states, and why a signal is not told.

    ECC counters are those since the driver was loaded. A card that is lost is left out. Raises ToolFailed where there
    is no HLML.
    """
    with library(root) as lib:
        cards = answering(lib, lib.HLMLError, "hlml", pci="hlmlDeviceGetPCIInfo", bus="bus_id")
        return {bus: {"": _card(lib, handle)} for bus, handle in cards}


def _card(lib: Any, handle: Any) -> Counted:
    def ask(function: str, *arguments: Any) -> tuple[Any, str]:
        return told(lib, lib.HLMLError, function, handle, *arguments)

    own = Counted()
    own.count("ecc_corrected", ask("hlmlDeviceGetTotalECCErrors", _CORRECTED, _VOLATILE))
    own.count("ecc_uncorrected", ask("hlmlDeviceGetTotalECCErrors", _UNCORRECTED, _VOLATILE))
    own.count("rows_replaced_corrected", ask("hlmlDeviceGetReplacedRowsCount", _SINGLE_BIT))
    own.count("rows_replaced", ask("hlmlDeviceGetReplacedRowsCount", _DOUBLE_BIT))
    own.level("rows_pending", part(ask("hlmlDeviceGetReplacedRowsPendingStatus"), bool))
    own.count("pcie_replay", ask("hlmlDeviceGetPCIEReplayCounter"))
    mask = ask("hlmlDeviceGetCurrentClocksThrottleReasons")
    own.level("thermal_slowdown", part(mask, lambda one: bool(one & _THERMAL)))
    return own
