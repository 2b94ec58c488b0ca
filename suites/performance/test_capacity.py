"""How many rows a device holds at once, found by running out of memory and going on."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import LargestBatch


@pytest.mark.performance("memory", requires_option="largest_batch", workloads=1)
def test_largest_batch_that_fits(largest_batch: LargestBatch) -> None:
    """By bisection up to the profile's `largest_batch`, at its first input length; the ranks must answer as before."""
    largest_batch()
