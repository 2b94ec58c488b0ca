"""The key-value cache changes nothing: decoding step by step equals one pass over everything."""

from __future__ import annotations

import pytest

from genqual.given import Judge, Passage
from genqual.ranks.handle import Generator

pytestmark = pytest.mark.conformance("cache")


def test_cache_equals_no_cache(generator: Generator, passage: Passage, judge_it: Judge) -> None:
    """The decode loop with its cache against a single pass that has none."""
    cached = generator.score(passage.prompts, passage.forced)
    single = generator.score_prefill(passage.prompts, passage.forced)
    judge_it(passage.same(cached, single, dtype=generator.case.dtype))
