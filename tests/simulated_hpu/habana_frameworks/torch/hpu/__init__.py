"""`habana_frameworks.torch.hpu`, which torch shows as `torch.hpu`."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from habana_frameworks.torch.card import CARD
from habana_frameworks.torch.hpu import metrics, random

__all__ = ["metrics", "random"]

_LIMIT = 96 * 2**30

if CARD.lazy:  # graphs exist in lazy mode only; in eager mode the name is not there
    from habana_frameworks.torch.graphs import wrap_in_hpu_graph as wrap_in_hpu_graph


def is_available() -> bool:
    return True


def is_initialized() -> bool:
    return True


def device_count() -> int:
    return int(CARD.count)


def current_device() -> int:
    return int(CARD.index)


def set_device(device: Any) -> None:
    if int(device) >= CARD.count:
        raise RuntimeError(f"module {device} is not visible to this process")
    CARD.index = int(device)


def get_device_name(device: Any = None) -> str:
    return "GAUDI2"


def synchronize(device: Any = None) -> None:
    CARD.synchronize()


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes. The stand-in keeps no account: its tensors are the host's."""
    return {"Limit": _LIMIT, "InUse": 2**20, "MaxInUse": 2**21, "NumAllocs": 1, "NumFrees": 0}


def memory_allocated(device: Any = None) -> int:
    return memory_stats()["InUse"]


def max_memory_allocated(device: Any = None) -> int:
    return memory_stats()["MaxInUse"]


def reset_peak_memory_stats(device: Any = None) -> None:
    pass


def mem_get_info(device: Any = None) -> tuple[int, int]:
    return _LIMIT - 2**20, _LIMIT


class Event:
    """A mark in the device's queue; to read its time before it passed is an error."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._timing = enable_timing
        self._at: float | None = None

    def record(self, stream: Any = None) -> None:
        self._at = None
        CARD.mark_step()
        self._dispatched = CARD.dispatched

    def synchronize(self) -> None:
        CARD.synchronize()
        self._at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        if not self._timing or self._at is None or end._at is None:
            raise RuntimeError("both events must have enable_timing, be recorded and be waited for")
        return (end._at - self._at) * 1000


class Stream:
    """The device's one queue; DeepSpeed wants to see the class."""

    def synchronize(self) -> None:
        CARD.synchronize()


_STREAM = Stream()


def current_stream(device: Any = None) -> Stream:
    return _STREAM


def default_stream(device: Any = None) -> Stream:
    return _STREAM


def stream(stream: Stream | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()
