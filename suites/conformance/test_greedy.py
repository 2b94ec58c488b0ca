"""Greedy output is right: the logits, the choice and the text, against an independent oracle."""

from __future__ import annotations

import pytest

from genqual.conformance.judges import logits, self_checks
from genqual.conformance.judges import logprobs as judge_top
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.references.make import Reference
from genqual.ranks.client import Generator
from genqual.session.fixture_types import Judge, Passage, Quote

pytestmark = pytest.mark.conformance("greedy")


def test_logits_match_the_oracle(generator: Generator, reference: Reference, passage: Passage, judge_it: Judge) -> None:
    """Teacher forcing through the timed decode loop, along the oracle's own greedy path."""
    scores = generator.score_once(passage.prompts, passage.forced)
    judge_it(logits.judge_scores(scores, reference, dtype=generator.case.dtype))


def test_free_run_follows_the_oracle(
    generator: Generator, reference: Reference, passage: Passage, rescore: Rescore, quote: Quote, judge_it: Judge
) -> None:
    """The tokens equal the oracle's until a step that the dtype may honestly decide otherwise; then re-scored."""
    run = generator.generate(passage.prompts, passage.steps)
    quote(run.tokens)
    judge_it(logits.judge_free_run(run.tokens, reference, dtype=generator.case.dtype, rescore=rescore))


def test_top_probabilities_match_the_oracle(
    generator: Generator, passage: Passage, rescore: Rescore, judge_it: Judge
) -> None:
    """Of an engine that shows no logits: its best log-probabilities at each step, on the text that it writes itself."""
    tokens, ids, logprobs = generator.generate_top(passage.prompts, passage.steps)
    dtype = generator.case.dtype
    judge_it(judge_top.judge_top(tokens, ids, logprobs, passage.reference, dtype=dtype, rescore=rescore))


def test_a_chosen_token_is_the_argmax_of_its_own_logits(
    generator: Generator, passage: Passage, judge_it: Judge
) -> None:
    """Sampling, processors and the cache may not stand between the logits and the choice."""
    run = generator.generate(passage.prompts, passage.steps)
    own = generator.score_once(passage.prompts, run.tokens)
    judge_it(self_checks.judge_choice(run.tokens, own, dtype=generator.case.dtype))


def test_every_logit_is_finite(generator: Generator, passage: Passage, judge_it: Judge) -> None:
    """In padded rows too: a short row attends to fewer positions than the kernel loads."""
    scores = generator.score(passage.padded(17), passage.forced)
    judge_it(self_checks.judge_finite(scores, dtype=generator.case.dtype))
