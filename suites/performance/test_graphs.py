"""A timed window holds the model's work only: nothing is compiled in it, and nothing falls back to the host."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.cases import Workload
from genqual.engines.base import TokenBatch
from genqual.ranks.client import Generator

pytestmark = pytest.mark.performance("graphs", workloads=1)


def test_no_compilation_and_no_fallback_in_a_timed_window(generator: Generator, workload: Workload) -> None:
    """After two runs of the same shape a third one compiles nothing; an engine that does not count is not asked."""
    ids = np.random.default_rng(7).integers(3, generator.loaded[0].vocabulary, (workload.batch, workload.input_length))
    batch = TokenBatch.of(ids.tolist())
    for _ in range(3):
        generator.generate(batch, workload.new_tokens)
    counted = [found.get("last_generate") for found in generator.inspect()]
    if not any(counted):
        pytest.skip(f"{generator.case.engine} counts no compilations on {generator.case.device}")
    for rank, counts in enumerate(counted):
        assert isinstance(counts, dict)
        happened = {name: count for name, count in counts.items() if count}
        assert not happened, f"rank {rank}, {workload.id}, third run: {happened}; a warm window has none"
