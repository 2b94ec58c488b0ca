"""A core or card under load, every result checked: `python -m genqual.health.stress`. Imports torch; own process.

    --core N --seconds S --dtype fp32      products with known answers until the time is over; one JSON line at the end
    --core N --serve                       for each number on stdin, so many pieces of work; their seconds on stdout
    --device cuda                          the same on the card that this process sees

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
_SIDE: Final = 1024


def stress(seconds: float, dtype: str, seed: int, inject: int | None, device: str) -> dict[str, object]:
    """Products until `seconds` are over: how many, and every event."""
    products, events = Products(dtype, seed, device=device), []
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
    """Answer each number with the CPU seconds that so many pieces of work took; `slower` 0.05 does 5 % more of it.

    CPU time, because another job on a core is no fault of the core.
    """
    products = Products("fp32", 0)
    for _ in range(_WORK):
        products.run()
    for line in sys.stdin:
        start = time.process_time()
        for _ in range(round(_WORK * 3 * int(line) * (1 + slower))):
            products.run()
        sys.stdout.write(f"{time.process_time() - start!r}\n")
        sys.stdout.flush()


def serve_card(slower: float, device: str) -> None:
    """The same on a card, in wall seconds until it has done all. A piece is a product of _SIDE by _SIDE, and a copy.

    The product moves with the card's clocks, the copy with its memory.
    """
    left = torch.ones(_SIDE, _SIDE, device=device)
    out, other = torch.empty_like(left), torch.empty_like(left)
    wait = getattr(torch, device).synchronize
    for line in sys.stdin:
        wait()
        start = time.perf_counter()
        for _ in range(round(int(line) * (1 + slower))):
            torch.mm(left, left, out=out)
            other.copy_(out)
        wait()
        sys.stdout.write(f"{time.perf_counter() - start!r}\n")
        sys.stdout.flush()


def _open(device: str) -> None:
    """Make torch know `device`, and its products keep all bits."""
    if device == "hpu":
        import habana_frameworks.torch.core  # noqa: F401  importing it registers the device with torch
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False


def main() -> None:
    """Bind to the core, then do as asked."""
    parser = argparse.ArgumentParser("python -m genqual.health.stress", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--core", type=int)
    where.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--dtype", choices=sorted(TILES), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--inject", type=int, help="make this product wrong: proves that the check sees it")
    parser.add_argument("--slower", type=float, default=0.0, help="with --serve: so much more work, for the same proof")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    np.seterr(all="raise")
    _open(options.device)
    if not options.serve:
        found = stress(options.seconds, options.dtype, options.seed, options.inject, options.device)
        print(json.dumps(found))  # noqa: T201  the answer
    elif options.device == "cpu":
        serve(options.slower)
    else:
        serve_card(options.slower, options.device)


if __name__ == "__main__":
    main()
