"""How long a user waits: for the first token, for each next one, for all of them."""

from __future__ import annotations

import pytest

from genqual.given import Timed

pytestmark = pytest.mark.performance("latency")


def test_time_to_first_token(timed: Timed) -> None:
    """TTFT: prefill and one choice."""
    timed("ttft")


def test_time_per_output_token(timed: Timed) -> None:
    """TPOT, the first token excluded."""
    timed("tpot")


def test_inter_token_latency(timed: Timed) -> None:
    """ITL: the gap that half of all tokens wait at most; the record has p90 and p99, too."""
    timed("itl_p50")


def test_end_to_end_latency(timed: Timed) -> None:
    """From the call to the last token of every row."""
    timed("e2e")
