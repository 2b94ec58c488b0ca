"""This node is fit: the checks of `genqual node`, one a test, from the same list."""

from __future__ import annotations

import pytest

from genqual.session.fixture_types import JudgeNode
from genqual.session.node_items import NodeCheck

pytestmark = pytest.mark.qualification("node")


def test_the_node_is_fit(node_check: NodeCheck, judge_node: JudgeNode) -> None:
    """One check within its own window of counters. `--level` gives it more time: 60 s, 2 min or 15 min for all."""
    judge_node(node_check)
