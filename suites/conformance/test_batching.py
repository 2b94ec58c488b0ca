"""A row is itself: neither its neighbours nor its padding reach it."""

from __future__ import annotations

import pytest

from genqual.conformance.judge_own import rows_of
from genqual.given import Judge, Passage
from genqual.ranks.handle import Generator

pytestmark = pytest.mark.conformance("batching")


@pytest.mark.parametrize("row", [0, 3], ids="row{}".format)
def test_a_row_does_not_see_its_neighbours(generator: Generator, passage: Passage, row: int, judge_it: Judge) -> None:
    """The row alone against the row in its batch."""
    together = generator.score(passage.prompts, passage.forced)
    alone = generator.score(*passage.row(row))
    judge_it(passage.same(alone, rows_of(together, [row]), dtype=generator.case.dtype))


@pytest.mark.parametrize("padding", [1, 31, 64], ids="pad{}".format)
def test_left_padding_changes_nothing(generator: Generator, passage: Passage, padding: int, judge_it: Judge) -> None:
    """More padding on the left, and so other places in the cache, but the same tokens to attend to."""
    plain = generator.score(passage.prompts, passage.forced)
    padded = generator.score(passage.padded(padding), passage.forced)
    judge_it(passage.same(padded, plain, dtype=generator.case.dtype))
