"""What a host does with several instances of one model side by side, each on cores of its own."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import Beside


@pytest.mark.performance("throughput", needs="instances")
def test_instances_side_by_side(beside: Beside) -> None:
    """`--instances N`: tokens a second of all together, and the TPOT of each."""
    beside()
