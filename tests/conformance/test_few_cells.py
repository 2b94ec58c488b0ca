"""A few cells near a tie of a router: what is left out so that two right runs agree, and no more than that."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.conformance.judgement import FP32_LIMIT, Tolerance
from genqual.conformance.judges.logits import judge_same, steps_of
from genqual.conformance.judges.self_checks import rows_of
from genqual.conformance.router_ties import Excused, excused_of_few
from genqual.conformance.scores import scores_of

from .pretend import noise, referred

TOLERANCE = Tolerance("declared", 1.25, 1.0, np.ones(3), 8.0, "of a test")


@pytest.mark.parametrize(
    ("errors", "near", "left_out"),
    [
        ([0.5, 2.6, 0.4], [True, True, True], [False, True, False]),
        ([0.5, 1.6, 0.4], [True, True, True], [False, False, False]),  # pooled, they are below the limit
        ([0.5, 2.6, 0.4], [True, False, True], [False, False, False]),  # no tie is near there
        ([2.0, 2.6, 0.4], [True, True, True], [True, True, False]),
    ],
)
def test_near_cells_are_left_out_from_the_limit_on_where_the_others_exceed_it(
    errors: list[float], near: list[bool], left_out: list[bool]
) -> None:
    none = Excused(np.zeros((3, 1), dtype=np.bool_), np.array(near)[:, None], 3.0)
    found = excused_of_few(np.array(errors)[:, None], TOLERANCE, none)
    assert found is not None
    assert found.cells[:, 0].tolist() == left_out


@pytest.mark.parametrize(("exact", "status"), [(False, "pass"), (True, "fail")])
def test_two_runs_are_excused_and_a_run_against_the_oracle_is_not(exact: bool, status: str) -> None:
    """The oracle has no error of its own, and a text of several steps is judged by it."""
    reference, logits = referred()
    sigma = FP32_LIMIT * reference.pooled_spread * (1.0 if exact else 2**0.5)
    wrong = logits.copy()
    wrong[1, 0] += 2.5 * sigma * noise(logits[1, 0].shape, 3, 1.0)
    a, b = (steps_of(rows_of(scores_of(one, reference.forced), [0]), 3) for one in (logits, wrong))
    found = judge_same(
        a, b, dtype="fp32", reference_spread=reference.pooled_spread, ties=[np.zeros((3, 2))], exact=exact
    )
    assert found.status == status, found.explanation
