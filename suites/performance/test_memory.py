"""What a case costs before and while it runs: load time, once a case, and peak memory of each workload."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import BenchmarkMetric


@pytest.mark.performance("memory", metric="load_s", workloads=1)
def test_load_time(benchmark_metric: BenchmarkMetric) -> None:
    """From the request to load until the slowest rank can generate."""
    benchmark_metric("load_s")


@pytest.mark.performance("memory", metric="peak_memory")
def test_peak_memory(benchmark_metric: BenchmarkMetric) -> None:
    """The rank that used most; running out of memory is an outcome of its own."""
    benchmark_metric("peak_memory")
