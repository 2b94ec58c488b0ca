"""What a host does with several instances of one model side by side, each on cores of its own."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import ConcurrentInstances


@pytest.mark.performance("throughput", requires_option="instances")
def test_instances_side_by_side(concurrent_instances: ConcurrentInstances) -> None:
    """`--instances N`: tokens a second of all together, and the TPOT of each."""
    concurrent_instances()
