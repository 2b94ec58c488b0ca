"""`genqual reference --stream`: the streamed oracle at a terminal, with its state kept where it can be found again."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import click
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from threadpoolctl import ThreadpoolController

from genqual.conformance.oracle.streamed import Progress, StreamedOracle, stream_key
from genqual.conformance.oracle.streamed_state import LOCK, StreamState
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.catalogue import cache_dir
from genqual.models.spec import ModelSpec

_M_ARENA_MAX: Final = -8  # in glibc's malloc.h


@contextmanager
def streamed(
    spec: ModelSpec, sha256: str, prompts: Sequence[Sequence[int]], steps: int, folder: Path | None
) -> Iterator[StreamedOracle]:
    """The oracle of `spec` on `prompts`, run to its end; the state on disk is removed when the block ends well.

    Raises BadInput on a state that is damaged or of another run, and when another process is at it.
    """
    config = weights.config(spec)
    key = stream_key(config, sha256, prompts, steps)
    state = StreamState(folder or cache_dir() / "streams" / f"{spec.name}-{key[:16]}", key)
    state.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"{state.folder} is in use by another process: wait for it, or give another --state") from None
    try:
        blas = ThreadpoolController()
        single = partial(blas.limit, limits=1, user_api="blas")
        oracle = StreamedOracle(config, weights.lazily(spec), prompts, steps, state, single=single)
        started = time.monotonic()
        say(
            f"{spec.name}: {oracle.turns} passes over {oracle.layers} layers; interrupted, the same command goes on "
            f"from {state.folder}"
        )
        with _shown(spec.name, oracle) as show, _small_threads():
            oracle.run(show)
        seconds = time.monotonic() - started
        say(
            f"{spec.name}: read {oracle.read / 1e6:,.0f} million weights in {seconds:,.0f} s, "
            f"{oracle.read / 1e6 / max(seconds, 1e-9):,.1f} million/s"
        )
        yield oracle
        state.remove()
    finally:
        lock.release()


@contextmanager
def _small_threads() -> Iterator[None]:
    """Threads that begin in the block share one heap and have small stacks.

    By default each reserves 64 MB and 8 MB of address space: of eight prompts more than the weights in blocks need.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc than glibc has one heap, or no such call
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    before = threading.stack_size(1 << 20)
    try:
        yield
    finally:
        threading.stack_size(before)


@contextmanager
def _shown(name: str, oracle: StreamedOracle) -> Iterator[Callable[[Progress], None]]:
    """A bar at a terminal; a line a pass elsewhere."""
    if not sys.stderr.isatty():

        def line(now: Progress) -> None:
            if now.layer == now.layers:
                say(f"{name}: pass {now.turn + 1} of {now.turns} done")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("of"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=oracle.turns * oracle.layers)

        def moved(now: Progress) -> None:
            said = f"{name}: pass {min(now.turn + 1, now.turns)} of {now.turns}, layer {now.layer} of {now.layers}"
            bar.update(task, completed=now.turn * now.layers + now.layer, description=said)

        yield moved


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout stays for results."""
    click.echo(text, err=True)
