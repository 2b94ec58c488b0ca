"""How many ranks share the work changes nothing that a user can see."""

from __future__ import annotations

import pytest

from genqual.conformance import judge_own
from genqual.given import Judge, Passage
from genqual.ranks.handle import Generator

pytestmark = pytest.mark.conformance("parallelism", min_ranks=2)


def test_tensor_parallel_degree(generator: Generator, one_rank: Generator, passage: Passage, judge_it: Judge) -> None:
    """The logits of several ranks against those of one rank of plain transformers."""
    several = generator.score(passage.prompts, passage.forced)
    one = one_rank.score(passage.prompts, passage.forced)
    judge_it(passage.same(several, one, dtype=generator.case.dtype))


def test_all_ranks_agree_on_every_token(generator: Generator, passage: Passage, judge_it: Judge) -> None:
    """A rank that chose another token went on with another text."""
    runs = generator.generate_ranks(passage.prompts, passage.steps)
    judge_it(judge_own.judge_agreement([run.tokens for run in runs], dtype=generator.case.dtype))
