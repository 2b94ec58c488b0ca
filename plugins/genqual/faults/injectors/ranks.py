"""Misbehaviour of one rank: at a decode step it exits, stops answering or raises; or it is slow. In ranks only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from genqual.faults.injectors.places import Undo, base_of, hooked, nothing


def rank_exit(engine: Any, rank: int, *, on_rank: int = 1, step: int = 2, code: int = 3) -> Undo:
    """Rank `on_rank` leaves with status `code` before forward pass `step`; a negative code is a signal, -9 a kill."""

    def leave() -> None:
        if code < 0:
            os.kill(os.getpid(), -code)
            signal.pause()  # the signal is on its way; nothing else may happen here
        os._exit(code)  # no clean-up: a crash has none

    return _armed(engine, rank == on_rank, step, leave)


def rank_sleep(engine: Any, rank: int, *, on_rank: int = 1, step: int = 2, seconds: float = 3600.0) -> Undo:
    """Rank `on_rank` does nothing for `seconds` before forward pass `step`: a hang, seen from outside."""
    return _armed(engine, rank == on_rank, step, lambda: time.sleep(seconds))  # the sleep is the fault


def rank_raise(engine: Any, rank: int, *, on_rank: int = 1, step: int = 2, message: str = "injected") -> Undo:
    """Rank `on_rank` raises RuntimeError(message) before forward pass `step`, while its peers wait in a collective."""

    def fail() -> None:
        raise RuntimeError(message)

    return _armed(engine, rank == on_rank, step, fail)


def rank_slow(engine: Any, rank: int, *, on_rank: int = 1, share: float = 0.05) -> Undo:
    """Rank `on_rank` computes `share` longer: CPU time of its thread from pass to pass, without what it waits."""
    if rank != on_rank:
        return nothing
    ended = time.thread_time()

    def burn(module: Any, args: Any, result: Any) -> None:
        nonlocal ended
        now = time.thread_time()
        end = now + share * (now - ended)
        while (ended := time.thread_time()) < end:
            pass

    return hooked(engine, base_of(engine.model).register_forward_hook(burn))


def _armed(engine: Any, here: bool, step: int, act: Callable[[], None]) -> Undo:
    """Call `act` before forward pass `step` (0 is the prefill), counted through all generations from now on; once."""
    if not here:
        return nothing
    model = engine.model
    prepare = model.prepare_inputs_for_generation  # generate calls it once a pass, in every engine made of transformers
    passes = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == step + 1:
            act()
        return prepare(*args, **kwargs)

    model.prepare_inputs_for_generation = counting

    def undo() -> None:
        del model.prepare_inputs_for_generation

    return undo
