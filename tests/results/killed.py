"""Writers that are killed at random moments; prints the ids whose `write` had returned. Run as a process of its own."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from genqual.results.spool import Spool
from tests.results.make import record

ROUNDS = 20


def write_until_killed(spool: Spool, wire: int) -> None:
    """Each id goes over the wire once `write` has returned."""
    whole = os.write
    # Byte by byte, as a slow disk: most of the time of a write is then spent inside a file.
    os.write = lambda descriptor, data: whole(descriptor, bytes(data)[:1])
    made = record(run=f"pid-{os.getpid()}")
    for attempt in range(1, 1_000_000):
        written = made.model_copy(update={"attempt": attempt})
        spool.write(written)
        whole(wire, f"{written.id}\n".encode())


def main(directory: Path) -> None:
    spool = Spool(directory / "spool", fallback=directory / "second")
    moments = random.Random(7)
    for _ in range(ROUNDS):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            write_until_killed(spool, writer)
            os._exit(1)
        os.close(writer)
        with os.fdopen(reader, "rb") as wire:
            told = wire.readline()  # it is writing by now
            time.sleep(moments.uniform(0.0, 0.03))  # a random moment of a write: what this is about
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            told += wire.read()
        print(*(line for line in told.decode().split("\n") if len(line) == 64), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
