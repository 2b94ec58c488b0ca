"""Read something once in a while, beside what is measured. One thread that sleeps; it computes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def sampled(read: Callable[[], T], every_s: Callable[[T], float]) -> Iterator[list[tuple[float, T]]]:
    """(monotonic seconds, what `read` said): at the beginning, every `every_s(first)` seconds, and at the end.

    The list has the last sample once the context has ended. An error of `read` within the window is raised at its end,
    unless the body itself raised.
    """
    found: list[tuple[float, T]] = []
    failed: list[BaseException] = []
    stop = threading.Event()

    def take() -> T:
        # The middle of the call: a library may take milliseconds to answer.
        begun = time.monotonic()
        said = read()
        found.append(((begun + time.monotonic()) / 2, said))
        return said

    def run(seconds: float) -> None:
        try:
            while not stop.wait(seconds):
                take()
        except Exception as error:  # noqa: BLE001  raised where the window ends
            failed.append(error)

    seconds = every_s(take())
    thread = threading.Thread(target=run, args=(seconds,), name="genqual-sampling", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]
    take()
