"""Processes that send into one database at the same moment, each record twice. Prints what was new to each process."""

from __future__ import annotations

import os
import sys

from genqual.storage.sinks.registry import open_sink
from tests.results.make import record


def main(url: str, processes: int, each: int, at_once: int) -> None:
    start, go = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            os.close(go)
            made = [record(run=f"run-{number}", attempt=attempt) for attempt in range(1, each + 1)]
            sink = open_sink(url)
            os.read(start, 1)  # returns when the parent closes its end: all begin together
            new = 0
            for first in range(0, each, at_once):
                some = made[first : first + at_once]
                new += sink.send(some) + sink.send(some)
            sink.close()
            os.write(1, f"{new}\n".encode())
            os._exit(0)
        children.append(child)
    os.close(go)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(1 if any(statuses) else 0)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
