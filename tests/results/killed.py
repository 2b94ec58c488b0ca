"""Processes killed at random moments of spooling, and of pushing where URLs are given; prints the ids they promised.

An id is promised once `write` has returned. Run as a process of its own: DIRECTORY ROUNDS [URL]...
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from genqual.storage.push import push
from genqual.storage.spool import Spool
from tests.results.make import record

ROUNDS = 20


def write_until_killed(spool: Spool, wire: int, urls: Sequence[str]) -> None:
    """Each id goes over the wire once `write` has returned; after every other one, what is pending is pushed."""
    whole = os.write
    # In small parts, as a slow disk: most of the time of a write is then spent inside a file.
    os.write = lambda descriptor, data: whole(descriptor, bytes(data)[: 16 if urls else 1])
    made = record(run=f"pid-{os.getpid()}")
    for attempt in range(1, 1_000_000):
        written = made.model_copy(update={"attempt": attempt})
        spool.write(written)
        whole(wire, f"{written.id}\n".encode())
        if urls and attempt % 2 == 0:
            push(spool, urls)


def main(directory: Path, rounds: int, urls: Sequence[str]) -> None:
    spool = Spool(directory / "spool", fallback=directory / "second")
    moments = random.Random(7)
    for _ in range(rounds):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            write_until_killed(spool, writer, urls)
            os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as wire:
            told = b"".join(
                wire.readline() for _ in range(moments.randint(1, 5) if urls else 1)
            )  # it is writing by now
            # A random moment of a write, or of the push after two of them: what this is about.
            time.sleep(moments.uniform(0.0, 0.08 if urls else 0.03))
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            told += wire.read()
        print(*(line for line in told.decode().split("\n") if len(line) == 64), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
