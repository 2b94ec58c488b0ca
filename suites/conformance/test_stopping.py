"""A run ends where it was asked to, and a run in two parts is the run in one."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import strategies as st

from genqual.conformance.judgement import Judgement
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.judges.logits import steps_of
from genqual.conformance.judges.self_checks import claims
from genqual.conformance.judges.text import judge_same_text, judge_stopped, stop_string, stopped
from genqual.engines.base import TokenBatch
from genqual.errors import NotApplicable
from genqual.ranks.client import Generator
from genqual.session.fixture_types import Drawn, Examples, GiveVerdict, ScoringSample

pytestmark = pytest.mark.conformance("stopping")

STEPS = 8


@pytest.mark.conformance("stopping", requires_ability="stops", one_dtype=True)
def test_a_row_ends_at_its_end_of_text(generator: Generator, scoring_sample: ScoringSample, examples: Examples) -> None:
    """Any token of the run made an end-of-text id: the row stops there, and nothing but padding follows it."""
    some = scoring_sample.few(4, STEPS)
    tokens = generator.generate_once(some.prompts, STEPS).tokens

    def check(row: int, step: int, pad: int) -> Judgement:
        eos = [int(tokens[row, step])]
        got = generator.generate_until(some.prompts, STEPS, eos=eos, pad=pad)
        want = stopped(tokens, eos=eos, pad=pad)
        return judge_stopped(got, want, dtype=generator.case.dtype, what=f"eos {eos}, pad {pad}")

    examples(check, row=st.integers(0, 3), step=st.integers(0, STEPS - 1), pad=st.integers(0, 2))


@pytest.mark.conformance("stopping", requires_ability="stops", one_dtype=True)
def test_a_length_is_kept(generator: Generator, scoring_sample: ScoringSample, examples: Examples) -> None:
    """`max_new_tokens` counts what is new, `max_length` the prompt as well."""
    some = scoring_sample.few(4, STEPS)
    tokens = generator.generate_once(some.prompts, STEPS).tokens

    def check(length: int, whole: bool) -> Judgement:
        got = generator.generate_until(some.prompts, length, max_length=whole)
        return judge_stopped(got, tokens[:, :length], dtype=generator.case.dtype, what=f"{length} new tokens")

    examples(check, most=4, length=st.integers(1, STEPS), whole=st.booleans())


@pytest.mark.conformance("stopping", requires_ability="stops", one_dtype=True)
def test_a_least_length_is_kept(generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict) -> None:
    """Before `min_new_tokens` the end of text cannot be chosen, and what comes before it is as without."""
    one = scoring_sample.few(1, STEPS)
    tokens = generator.generate(one.prompts, STEPS).tokens[0]
    eos, least = int(tokens[1]), 5
    problems = []
    for rank, got in enumerate(generator.generate_until(one.prompts, STEPS, eos=[eos], least=least)):
        first = int((tokens == eos).argmax())
        if got.shape[1] < least or (got[0, :least] == eos).any():
            problems.append(f"rank {rank} ended after {got.shape[1]} tokens, {least} were the least")
        elif not np.array_equal(got[0, :first], tokens[:first]):
            problems.append(f"rank {rank} wrote another text before the end of text was ever due")
    said, dtype = f"{least} tokens at least", generator.case.dtype
    verdict(claims(problems, said, STEPS, dtype=dtype, tier="tokens", shape=(STEPS, 1)))


@pytest.mark.conformance("stopping", requires_ability="stops", one_dtype=True)
def test_a_row_ends_at_a_stop_string(generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict) -> None:
    """A string that a row writes stops it there, and stops no row before its text has it."""
    some = scoring_sample.few(6, STEPS)  # rows enough that one writes whole characters
    tokens = generator.generate(some.prompts, STEPS).tokens
    chosen = stop_string(some.prompts.rows, tokens, generator.text_of)
    if chosen is None:
        raise NotApplicable("no token that this model writes here reads as whole characters of its tokenizer")
    string, ends = chosen
    # transformers pads a row that has stopped only where there is an end-of-text id as well: one that nobody writes.
    unused = next(token for token in range(tokens.size + 1) if token not in tokens)
    got = generator.generate_until(some.prompts, STEPS, eos=[unused], strings=[string])
    want = stopped(tokens, ends=ends)
    verdict(judge_stopped(got, want, dtype=generator.case.dtype, what=f"stop string {string!r}"))


def test_a_shorter_run_is_a_prefix(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, examples: Examples
) -> None:
    """Asking for more tokens changes none of those that come first."""
    some = scoring_sample.few(4, STEPS)
    tokens = generator.generate_once(some.prompts, STEPS).tokens
    dtype, scores = generator.case.dtype, partial(generator.score_once, some.prompts, tokens)
    ties = Drawn.after(some.prompts, tokens, rescore).ties

    def check(length: int) -> Judgement:
        short = generator.generate(some.prompts, length).tokens
        return judge_same_text(tokens, short, scores, dtype=dtype, ties=ties, **some.tolerance(dtype))

    examples(check, most=3, length=st.integers(1, STEPS - 1))


def test_a_run_in_two_parts_is_the_run_in_one(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, examples: Examples
) -> None:
    """Going on from a prompt and what was generated after it, at a drawn place."""
    some = scoring_sample.few(4, STEPS)
    whole = generator.score_once(some.prompts, some.forced)

    def check(place: int) -> Judgement:
        longer = TokenBatch.of(
            [
                [*prompt, *(int(t) for t in new[:place])]
                for prompt, new in zip(some.prompts.rows, some.forced, strict=True)
            ]
        )
        second = generator.score(longer, some.forced[:, place:])
        first = steps_of(whole, STEPS, first=place)
        return some.same(second, first, dtype=generator.case.dtype, drawn=Drawn(some.texts, rescore))

    examples(check, most=3, place=st.integers(1, STEPS - 1))
