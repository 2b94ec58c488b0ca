"""The same request gives the same bits."""

from __future__ import annotations

import pytest

from genqual.conformance import judge, judge_own
from genqual.given import Judge, Passage
from genqual.ranks.handle import Generator

pytestmark = pytest.mark.conformance("repeat")


def test_a_repeated_request_gives_the_same_bits(generator: Generator, passage: Passage, judge_it: Judge) -> None:
    """Not only the same tokens: every statistic of every logit row, to the last bit."""
    first = generator.score(passage.prompts, passage.forced)
    second = generator.score(passage.prompts, passage.forced)
    judge_it(judge.judge_bitwise(first, second, dtype=generator.case.dtype))


def test_weights_stay_as_they_were_loaded(generator: Generator, passage: Passage, judge_it: Judge) -> None:
    """Generating may not write to the weights of any rank."""
    generator.generate(passage.prompts, 2)
    hashes = [rank.weight_hash for rank in generator.loaded]
    judge_it(judge_own.judge_unmutated(hashes, generator.weight_hash(), dtype=generator.case.dtype))
