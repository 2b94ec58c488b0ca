"""What the profile promises users, apart from any baseline: MEETS or MISSES."""

from __future__ import annotations

import pytest

from genqual.metrics.slo import Limit
from genqual.session.fixture_types import Promised


@pytest.mark.performance("limits", needs="limits")
def test_a_limit_of_the_profile(promised: Promised, limit: Limit) -> None:
    """`[performance.limits]` of the profile, each metric of each workload."""
    promised(limit)
