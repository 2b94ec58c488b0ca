"""Made-up runs for the tests of this room. No torch, no device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genqual.engines.base import Generated, Loaded
from genqual.metrics.compute import Measured
from genqual.metrics.utilisation import Read, Roofline

MIB = 1 << 20


def run(step_s: Sequence[float], *, batch: int = 1, wall_s: float | None = None, cpu_s: float = 0.5) -> Generated:
    tokens = np.zeros((batch, len(step_s)), dtype=np.int64)
    return Generated(tokens, np.array(step_s, dtype=np.float64), wall_s if wall_s is not None else step_s[-1], cpu_s)


def value(metric: Measured) -> float:
    assert metric.value is not None, metric.note
    return metric.value


def rank(**changes: Any) -> Loaded:
    facts: dict[str, Any] = {
        "load_s": 2.0,
        "weight_bytes": 60 * MIB,
        "parameters": 30_000_000,
        "kv_bytes_per_token": 4096,
    } | changes
    return Loaded(vocabulary=1024, max_positions=2048, weight_hash="00", **facts)


def roofline(*reads: tuple[int, float], flop_per_s: float = 1e12, cache_bytes: int | None = 32 * MIB) -> Roofline:
    reads = reads or ((MIB, 100e9), (64 * MIB, 20e9), (1024 * MIB, 10e9))
    return Roofline(
        tuple(Read(size, rate, "sum float32") for size, rate in reads), flop_per_s, "GEMM bf16 on cpu", cache_bytes
    )
