"""A metric of another package, with its gate rule and the test that asks for it: the slowest decode step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from genqual.metrics.definitions import Column, Definition, GateRule


def _slowest(steps: Any, workload: Any) -> Any:
    """From (repetitions, new tokens) seconds since the call began to the longest gap of each repetition."""
    return np.diff(steps, axis=1).max(axis=1)


SLOWEST_STEP = Definition(
    "slowest_step",
    "slowest decode step",
    "s",
    "median over repetitions",
    "lower",
    "max of step[t] - step[t-1]",
    "The longest that one token waits for the one before it.",
    GateRule("decode", "smallest", "test_slowest_step", tolerance=0.2),
    Column("slowest step", "ms", 1e3),
    _slowest,
)


@pytest.mark.performance("latency", metric="slowest_step")
def test_slowest_step(benchmark_metric: Callable[[str], None]) -> None:
    benchmark_metric("slowest_step")
