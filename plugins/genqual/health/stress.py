"""One core under load while every result is checked: `python -m genqual.health.stress`. Imports torch; own process.

    --core N --seconds S --dtype fp32      products with known answers until the time is over; one JSON line at the end
    --core N --serve                       for each line on stdin, a fixed piece of work; its seconds on stdout

Bursts and idle gaps alternate, because clocks and voltages move between them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import Final

import numpy as np
import torch

from genqual.health.known_answer import TILES
from genqual.health.products import Products

_BURST_S: Final = 1.0
_GAP_S: Final = 0.05
_WORK: Final = 24  # products of a served piece of work: some 10 ms on a core of 2023


def stress(seconds: float, dtype: str, seed: int, inject: int | None) -> dict[str, object]:
    """Products until `seconds` are over: how many, and every event."""
    products, events = Products(dtype, seed), []
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        burst = min(end, now + _BURST_S)
        while time.monotonic() < burst:
            for _ in range(len(TILES[dtype])):
                if (event := products.run(inject)) is not None:
                    events.append(dataclasses.asdict(event))
        time.sleep(_GAP_S)
    return {"products": products.count, "dtype": dtype, "events": events, "injected": inject is not None}


def serve(slower: float) -> None:
    """Answer each line with the CPU seconds that a fixed piece of work took; `slower` 0.05 does 5 % more of it.

    CPU time, because another job on a core is no fault of the core.
    """
    products = Products("fp32", 0)
    for _ in range(_WORK):
        products.run()
    for _ in sys.stdin:
        start = time.process_time()
        for _ in range(round(_WORK * 3 * (1 + slower))):
            products.run()
        sys.stdout.write(f"{time.process_time() - start!r}\n")
        sys.stdout.flush()


def main() -> None:
    """Bind to the core, then do as asked."""
    parser = argparse.ArgumentParser("python -m genqual.health.stress", description=__doc__)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--dtype", choices=sorted(TILES), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--inject", type=int, help="make this product wrong: proves that the check sees it")
    parser.add_argument("--slower", type=float, default=0.0, help="with --serve: so much more work, for the same proof")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    np.seterr(all="raise")
    if options.serve:
        serve(options.slower)
    else:
        print(json.dumps(stress(options.seconds, options.dtype, options.seed, options.inject)))  # noqa: T201  the answer


if __name__ == "__main__":
    main()
