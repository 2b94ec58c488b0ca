"""Greedy output is right: the logits, the choice and the text, against an independent oracle."""

from __future__ import annotations

import pytest

from genqual.conformance.judges import logits, self_checks
from genqual.conformance.judges import logprobs as judge_top
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.references.make import Reference
from genqual.ranks.client import Generator
from genqual.session.fixture_types import GiveVerdict, SampleText, ScoringSample

pytestmark = pytest.mark.conformance("greedy")


def test_logits_match_the_oracle(
    generator: Generator, reference: Reference, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Teacher forcing through the timed decode loop, along the oracle's own greedy path."""
    scores = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    verdict(logits.judge_scores(scores, reference, dtype=generator.case.dtype))


def test_free_run_follows_the_oracle(
    generator: Generator,
    reference: Reference,
    scoring_sample: ScoringSample,
    rescore: Rescore,
    sample_text: SampleText,
    verdict: GiveVerdict,
) -> None:
    """The tokens equal the oracle's until a step that the dtype may rightly decide otherwise; then re-scored."""
    run = generator.generate_once(scoring_sample.prompts, scoring_sample.steps)
    sample_text(run.tokens)
    verdict(logits.judge_free_run(run.tokens, reference, dtype=generator.case.dtype, rescore=rescore))


def test_top_probabilities_match_the_oracle(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """Of an engine that shows no logits: its best log-probabilities at each step, on the text that it writes itself."""
    tokens, ids, logprobs = generator.generate_top(scoring_sample.prompts, scoring_sample.steps)
    dtype = generator.case.dtype
    verdict(judge_top.judge_top(tokens, ids, logprobs, scoring_sample.reference, dtype=dtype, rescore=rescore))


def test_a_chosen_token_is_the_argmax_of_its_own_logits(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Sampling, processors and the cache may not stand between the logits and the choice."""
    run = generator.generate_once(scoring_sample.prompts, scoring_sample.steps)
    own = generator.score_once(scoring_sample.prompts, run.tokens)
    verdict(self_checks.judge_choice(run.tokens, own, dtype=generator.case.dtype))


def test_every_logit_is_finite(generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict) -> None:
    """In padded rows too: a short row attends to fewer positions than the kernel loads."""
    scores = generator.score_once(scoring_sample.padded(31), scoring_sample.forced)
    verdict(self_checks.judge_finite(scores, dtype=generator.case.dtype))
