"""Gaudi cards through HLML, where hl-smi is absent. Reads the driver's management library; acquires no card."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genqual.devices.cards import Card
from genqual.devices.tool import ToolFailed

LIBRARY = "usr/lib/habanalabs/libhlml.so"  # the one place where pyhlml looks


def cards(root: Path) -> tuple[Card, ...]:
    """Every card that HLML knows, unreadable ones with their problem. Raises ToolFailed where there is no HLML."""
    with library(root) as lib:
        driver = _text(lib.hlmlGetDriverVersion())
        return tuple(_card(lib, index, driver) for index in range(lib.hlmlDeviceGetCount()))


@contextmanager
def library(root: Path) -> Iterator[Any]:
    """HLML, begun and ended again. Raises ToolFailed where there is none, or where it fails."""
    # Asked first: without the library pyhlml prints to stdout before it raises.
    if not (root / LIBRARY).exists():
        raise ToolFailed(f"no {root / LIBRARY}")
    try:
        with warnings.catch_warnings():
            # Version 1.24 warns of its own modules on import, which a strict filter would turn into an error of ours.
            warnings.simplefilter("ignore")
            import pyhlml as lib
    except ImportError as error:
        raise ToolFailed(f"pyhlml is not installed ({error})") from error
    try:
        lib.hlmlInit()
        try:
            yield lib
        finally:
            lib.hlmlShutdown()
    except lib.HLMLError as error:
        raise ToolFailed(f"HLML: {error}") from error


def _card(lib: Any, index: int, driver: str | None) -> Card:
    try:
        handle = lib.hlmlDeviceGetHandleByIndex(index)
        return Card(
            number=int(lib.hlmlDeviceGetModuleID(handle)),
            name=_text(lib.hlmlDeviceGetName(handle)),
            memory_bytes=int(lib.hlmlDeviceGetMemoryInfo(handle).total),
            driver=driver,
            uuid=_text(lib.hlmlDeviceGetUUID(handle)),
            bus=_text(lib.hlmlDeviceGetPCIInfo(handle).bus_id),
            more={"index": index},
        )
    except lib.HLMLError as error:
        return Card(-1, None, driver=driver, problem=f"HLML: {error}", more={"index": index})


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else None if value is None else str(value)
