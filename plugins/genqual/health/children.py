"""Processes that a check starts end with the run that started them, however that ends. Linux."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_C: Final = ctypes.CDLL(None, use_errno=True)  # looked up before a fork, after which little is safe


def ends_with_us() -> Callable[[], None]:
    """A `preexec_fn`: the kernel kills the child when the thread that started it ends, with kill -9 too.

    One that is left goes on computing beside whoever has the node next: for minutes, on all cores.
    """
    parent = os.getpid()

    def ask() -> None:
        _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was told
            os._exit(1)

    return ask
