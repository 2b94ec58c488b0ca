"""Faults that only time shows: a rank that keeps memory, a rank that gets slower. In ranks."""

from __future__ import annotations

import time
from typing import Any

from genqual.faults.injectors.places import Undo, base_of, hooked


def leaks(engine: Any, rank: int, *, bytes_a_pass: int) -> Undo:
    """Each forward pass leaves so many bytes behind."""
    kept: list[bytes] = []
    hook = base_of(engine.model).register_forward_hook(lambda *_: kept.append(bytes([1]) * bytes_a_pass))
    return hooked(engine, hook)


def creeps(engine: Any, rank: int, *, share_a_minute: float) -> Undo:
    """Each forward pass takes longer, from none by so much a minute."""
    begun = ended = time.monotonic()

    def burn(*_: Any) -> None:
        nonlocal ended
        now = time.monotonic()
        end = now + min(now - ended, 0.05) * share_a_minute * (now - begun) / 60
        while (ended := time.monotonic()) < end:
            pass

    return hooked(engine, base_of(engine.model).register_forward_hook(burn))
