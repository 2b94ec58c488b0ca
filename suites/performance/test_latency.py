"""How long a user waits: for the first token, for each next one, for all of them."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import BenchmarkMetric


@pytest.mark.performance("latency", metric="ttft")
def test_time_to_first_token(benchmark_metric: BenchmarkMetric) -> None:
    """TTFT: prefill and one choice."""
    benchmark_metric("ttft")


@pytest.mark.performance("latency", requires_option="prompt_cache")
def test_first_token_of_a_repeated_prompt(repeated: BenchmarkMetric) -> None:
    """TTFT where every request sends the same prompts: of a server's prefix cache, never to be mixed with the other."""
    repeated("ttft")


@pytest.mark.performance("latency", metric="tpot")
def test_time_per_output_token(benchmark_metric: BenchmarkMetric) -> None:
    """TPOT, the first token excluded."""
    benchmark_metric("tpot")


@pytest.mark.performance("latency", metric="itl_p50")
def test_inter_token_latency(benchmark_metric: BenchmarkMetric) -> None:
    """ITL: the gap that half of all tokens wait at most; the record has p90 and p99, too."""
    benchmark_metric("itl_p50")


@pytest.mark.performance("latency", metric="e2e")
def test_end_to_end_latency(benchmark_metric: BenchmarkMetric) -> None:
    """From the call to the last token of every row."""
    benchmark_metric("e2e")
