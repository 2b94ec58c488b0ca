"""Latency of wrong answers is worth nothing: each timed case is judged by the oracle first, on the timed group."""

from __future__ import annotations

import pytest

from genqual.conformance.judges import logits
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.references.make import Reference
from genqual.ranks.client import Generator
from genqual.session.fixture_types import GiveVerdict, ScoringSample

pytestmark = pytest.mark.performance("accuracy")


def test_timed_logits_match_the_oracle(
    generator: Generator, reference: Reference, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """The decode loop that is timed, with given tokens forced through it."""
    scores = generator.score(scoring_sample.prompts, scoring_sample.forced)
    verdict(logits.judge_scores(scores, reference, dtype=generator.case.dtype))


def test_timed_text_follows_the_oracle(
    generator: Generator, reference: Reference, scoring_sample: ScoringSample, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """The very call that is timed, without any hook."""
    run = generator.generate(scoring_sample.prompts, scoring_sample.steps)
    verdict(logits.judge_free_run(run.tokens, reference, dtype=generator.case.dtype, rescore=rescore))
