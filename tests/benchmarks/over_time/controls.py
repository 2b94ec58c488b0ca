"""Controls that run between the candidate's steps, in the rank. Plain torch; the candidate is never touched.

A file of its own, and not of genqual: it is put beside the pinned build, which knows nothing of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from genqual.engines.base import TokenBatch
from genqual.performance import frozen

STREAM_BYTES: Final = 64 << 20  # beyond the last-level cache of every host met so far
GATHERS: Final = 20_000
OPERATIONS: Final = 200
LOOPS: Final = 20_000
HASHED_BYTES: Final = 256 << 10

Control = Callable[[], object]


def controls(shape: dict[str, Any], parameters: int, rows: int, context: int) -> dict[str, Control]:
    """The controls by name, in the order in which they run after each candidate step.

    `frozen`: the gate's own reference step. `twin`: the same with as many parameters as the candidate, so the same
    bytes. `stream`: memory bandwidth. `gather`: memory latency and the TLB. `gemm`: arithmetic within the L2 cache.
    `dispatch`: many tiny operations of torch. `python`: the interpreter. `sha`: a fixed number of core cycles, so
    against the wall clock it tells the core's frequency.
    """
    dtype, device = frozen.DTYPES[shape["dtype"]], torch.device("cpu")
    half = frozen.Frozen(shape["hidden"], shape["layers"], dtype=dtype, device=device)
    layer = round(11.25 * shape["hidden"] ** 2)
    whole = frozen.Frozen(shape["hidden"], max(1, round(parameters / layer)), dtype=dtype, device=device)
    numbers = torch.ones(STREAM_BYTES // 4)
    places = torch.randint(len(numbers), (GATHERS,), generator=torch.Generator().manual_seed(0))
    square, tiny = torch.ones(256, 256) / 256, torch.ones(8)
    block = bytes(HASHED_BYTES)

    def dispatch() -> None:
        for _ in range(OPERATIONS):
            tiny.add(1.0)

    def python() -> int:
        total = 0
        for index in range(LOOPS):
            total = (total + index) & 0xFFFF
        return total

    def gemm() -> None:
        for _ in range(4):
            torch.mm(square, square)

    return {
        "frozen": half.decode(rows, context),
        "twin": whole.decode(rows, context),
        "stream": lambda: float(numbers.sum()),
        "gather": lambda: numbers[places],
        "gemm": gemm,
        "dispatch": dispatch,
        "python": python,
        "sha": lambda: hashlib.sha256(block).digest(),
    }


class _Cycle:
    """Called by the engine between its steps: runs every control once and keeps what each took."""

    def __init__(self, parts: dict[str, Control]) -> None:
        self._parts = parts
        self._started: float | None = None
        self.rows: list[list[float]] = []

    def skip(self) -> None:
        self._started = None

    def __call__(self) -> None:
        ended = time.perf_counter()
        row = [0.0 if self._started is None else ended - self._started]
        for part in self._parts.values():
            start = time.perf_counter()
            part()
            row.append(time.perf_counter() - start)
        if self._started is not None:
            self.rows.append(row)
        self._started = time.perf_counter()


def launch(
    engine: Any, *, shape: dict[str, Any], new_tokens: int, calls: int, ids: NDArray[np.int64]
) -> dict[str, Any]:
    """`calls` generations of `new_tokens` tokens on prompts `ids`, with every control after every decode step.

    Returns `times`, (steps, 1 + controls) seconds, candidate first, with `names` of the columns; and facts of the
    process that may explain a shift between launches.
    """
    parts = controls(shape, sum(tensor.numel() for tensor in engine.model.parameters()), *ids.shape)
    cycle = _Cycle(parts)
    batch = TokenBatch.of(ids.tolist())
    engine.between_steps(cycle)
    try:
        for index in range(calls + 1):
            if index == 1:
                cycle.rows.clear()  # the first generation warms up
            cycle.skip()
            engine.generate(batch, new_tokens)
    finally:
        engine.between_steps(None)
    return {"names": ["candidate", *parts], "times": np.array(cycle.rows), **dict(_facts(engine))}


def _facts(engine: Any) -> Iterator[tuple[str, Any]]:
    rollup = Path("/proc/self/smaps_rollup")
    if rollup.is_file():
        for line in rollup.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Rss", "AnonHugePages"):
                yield f"{name.lower()}_kib", int(value.split()[0])
    tensors = list(engine.model.parameters())
    yield "weights_mod_2mib", [tensor.data_ptr() % (2 << 20) for tensor in tensors[:4]]
    yield "threads", torch.get_num_threads()
