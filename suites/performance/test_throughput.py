"""How much work a device does: tokens a second, and what that is of what it could do."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import BenchmarkMetric


@pytest.mark.performance("throughput", metric="tokens_per_s")
def test_output_tokens_per_second(benchmark_metric: BenchmarkMetric) -> None:
    """New tokens of all rows over end-to-end latency; msec per token, MBU and MFU are in the same record."""
    benchmark_metric("tokens_per_s")
