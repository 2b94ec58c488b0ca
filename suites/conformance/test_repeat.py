"""The same request gives the same bits, and takes nothing and leaves nothing."""

from __future__ import annotations

import pytest

from genqual.conformance.judges import logits, self_checks
from genqual.conformance.judges.free_run import Rescore
from genqual.engines.registry import engine
from genqual.errors import NotApplicable
from genqual.ranks.client import Generator
from genqual.session.fixture_types import GiveVerdict, ScoringSample
from genqual.session.token_evidence import asked_again, tokens_only

pytestmark = pytest.mark.conformance("repeat")


def test_a_repeated_request_gives_the_same_bits(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """Not only the same tokens: every statistic of every logit row, to the last bit; without logits, what is shown."""
    if tokens_only(generator):
        verdict(asked_again(generator, scoring_sample.reference, rescore))
        return
    first = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    second = generator.score(scoring_sample.prompts, scoring_sample.forced)
    verdict(logits.judge_bitwise(first, second, dtype=generator.case.dtype))


@pytest.mark.conformance("repeat", one_dtype=True, last=True)
def test_a_fresh_process_gives_the_same_bits(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """Other addresses, other seeds of Python's hashes, other threads: no other number, from its first answer on.

    Without logits, the oracle judges what a fresh process answers first; a server is not ours to start.
    """
    if tokens_only(generator):
        if "endpoint" in generator.plan.options:
            raise NotApplicable("a server is started by others, and its first answer was theirs")
        generator.restart()
        verdict(asked_again(generator, scoring_sample.reference, rescore))
        return
    some, dtype = scoring_sample.few(4, 8), generator.case.dtype
    before = generator.score(some.prompts, some.forced)
    generator.restart()
    first = generator.score(some.prompts, some.forced)  # nothing else was asked of these processes
    # With itself as well: where the old process had answered nothing either, both first answers may be wrong alike.
    again = generator.score(some.prompts, some.forced)
    verdicts = [logits.judge_bitwise(before, first, dtype=dtype), logits.judge_bitwise(first, again, dtype=dtype)]
    if engine(generator.case.engine).lacking("first") is None:
        verdicts.append(self_checks.judge_first(generator.first_answers(), dtype=dtype))
    verdict(next((one for one in verdicts if not one.passed), verdicts[0]))


def test_weights_stay_as_they_were_loaded(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Generating may not write to the weights of any rank."""
    generator.generate(scoring_sample.prompts, 2)
    hashes = [rank.weight_hash for rank in generator.loaded]
    verdict(self_checks.judge_unmutated(hashes, generator.weight_hash(), dtype=generator.case.dtype))


@pytest.mark.conformance("repeat", requires_ability="inputs")
def test_inputs_stay_as_they_were_given(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Nor to the tokens and the mask that it was given: a server's next request may hold the same arrays."""
    some = scoring_sample.few(4, 4)
    written = generator.written_inputs(some.prompts, some.forced)
    verdict(self_checks.judge_inputs(written, dtype=generator.case.dtype))
