"""Dataset mode: every prompt of `--prompts` is generated from, in order, none lost and none twice."""

from __future__ import annotations

import pytest

from genqual.conformance import judge_own
from genqual.given import Judge
from genqual.pairs import Job, generate_pairs, problems
from genqual.ranks.handle import Generator
from genqual.run import Run


@pytest.mark.conformance("text", needs="prompts")
def test_every_prompt_of_a_data_set_has_its_pair(generator: Generator, run: Run, dataset: Job, judge_it: Judge) -> None:
    """The pairs lie below the state directory; an interrupted run goes on where it was."""
    count = generate_pairs(generator, dataset, run.progress)
    judge_it(judge_own.judge_whole(list(problems(dataset)), count, dtype=generator.case.dtype))
