"""Several instances side by side: what is summed, and what the slowest waits."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.cases import Workload
from genqual.engines.base import Generated
from genqual.metrics.compute import BadClock
from genqual.metrics.concurrent import compute

WORK = Workload(batch=2, input_length=4, new_tokens=3)


def run(*steps: float) -> Generated:
    return Generated(np.zeros((2, len(steps)), dtype=np.int64), np.array(steps), steps[-1], 0.1)


def test_tokens_are_summed_and_the_slowest_instance_is_named_by_its_tpot() -> None:
    fast, slow = run(0.5, 0.75, 1.0), run(1.0, 2.0, 3.0)
    found = compute([[fast, slow], [fast, slow], [fast, fast]], WORK)
    total = found["instances_tokens_per_s"]
    assert total.samples == (6 / 1 + 6 / 3, 6 / 1 + 6 / 3, 12.0)
    assert (total.value, total.unit, total.better) == (8.0, "1/s", "higher")
    tpot = found["instances_tpot"]
    assert (tpot.value, tpot.samples, tpot.unit) == (1.0, (0.25, 1.0), "s")


def test_one_token_has_no_tpot() -> None:
    one = Generated(np.zeros((2, 1), dtype=np.int64), np.array([0.5]), 0.5, 0.1)
    found = compute([[one, one]], Workload(2, 4, 1))
    assert set(found) == {"instances_tokens_per_s"}
    assert found["instances_tokens_per_s"].value == 8.0


def test_a_clock_that_stands_still_names_the_instance() -> None:
    with pytest.raises(BadClock, match="repetition 0, instance 1: step 1"):
        compute([[run(1.0, 2.0, 3.0), run(1.0, 1.0, 3.0)]], WORK)
