"""What the profile promises users, apart from any baseline: MEETS or MISSES."""

from __future__ import annotations

import pytest

from genqual.metrics.slo import Limit
from genqual.session.fixture_types import SloVerdict


@pytest.mark.performance("limits", requires_option="limits")
def test_a_limit_of_the_profile(slo: SloVerdict, limit: Limit) -> None:
    """`[performance.limits]` of the profile, each metric of each workload."""
    slo(limit)
