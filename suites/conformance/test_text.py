"""Texts of any language survive, and prompts at the edges have a declared outcome."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.conformance.judgement import Judgement
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.judges.self_checks import claims, judge_finite, rows_of
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput, EngineFailed, GenqualError, NotApplicable, OutOfMemory, Unsupported
from genqual.models.prompts import lost_texts, prompt_set, require_tokenizer, token_rows
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.session.context import Run
from genqual.session.fixture_types import Drawn, DrawText, Examples, GiveVerdict, ScoringSample, unless_tied

pytestmark = pytest.mark.conformance("text")

LONGEST = 8192
MOST_WORK = 2e11  # tokens x weights of a quick run on a processor: half a minute of a slow core
RARE = (
    "\U0001f469\u200d\U0001f680 a family of code points",
    "\u0e44\u0e17\u0e22 \u05e2\u05d1\u05e8\u05d9\u05ea mixed directions",
    "e\u0301 is not \u00e9",
    "\U00020000 lies beyond the first plane",
    "tabs\tand  two spaces",
    "\ufeffa mark at the start",
)


@pytest.mark.conformance("text", one_dtype=True)
def test_texts_of_46_languages_round_trip(generator: Generator, verdict: GiveVerdict) -> None:
    """To tokens and back, rare code points too; a tokenizer that normalises says so, and is held to what it says."""
    texts = [*prompt_set("languages").texts, *RARE]
    lost = lost_texts(require_tokenizer(generator.plan.model), texts)
    problems = [f"{before!r} comes back as {after!r}" for before, after in lost]
    verdict(claims(problems, f"{len(texts)} texts come back", len(texts), dtype=generator.case.dtype, tier="text"))


@pytest.mark.conformance("text", one_dtype=True)
def test_rare_texts_are_read_like_any_other(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """Their tokens, seldom used, have finite logits, and decode as they are read in one pass."""
    tokens = token_rows(require_tokenizer(generator.plan.model), RARE, max_tokens=12)
    batch, forced = TokenBatch.of(tokens), np.resize(scoring_sample.forced, (len(RARE), 3))
    decoded = generator.score(batch, forced)
    read, drawn = generator.score_prefill(batch, forced), Drawn.after(batch, forced, rescore)
    verdict(unless_tied(scoring_sample.same(decoded, read, dtype=generator.case.dtype, drawn=drawn)))


def test_a_prompt_of_one_token(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, text: DrawText, examples: Examples
) -> None:
    """Alone, and behind the padding that a longer neighbour needs."""

    def check(text: list[int]) -> Judgement:
        forced = np.array([text[1:], scoring_sample.forced[1, :4]])
        alone = generator.score(TokenBatch.of([text[:1]]), forced[:1])
        both = generator.score(TokenBatch.of([text[:1], scoring_sample.prompts.rows[1]]), forced)
        finite = judge_finite(both, dtype=generator.case.dtype)
        if not finite.passed:
            return finite
        drawn = Drawn([text], rescore)
        return scoring_sample.same(alone, rows_of(both, [0]), dtype=generator.case.dtype, drawn=drawn)

    examples(check, most=3, text=text(least=5, most=5))


@pytest.mark.conformance("text", one_dtype=True)
def test_a_prompt_of_nothing_has_a_declared_outcome(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """A row of padding alone: a plain refusal, or finite logits while its neighbour is what it is without it."""
    batch = TokenBatch.of([scoring_sample.prompts.rows[0], [0]])
    empty = TokenBatch.unchecked(batch.ids, np.stack([batch.mask[0], np.zeros_like(batch.mask[1])]))
    forced = scoring_sample.forced[:2, :3]
    try:
        got = generator.score(empty, forced)
    except (BadInput, Unsupported) as refusal:
        verdict(claims([], _refused(generator, scoring_sample, refusal), 1, dtype=generator.case.dtype, tier="text"))
        return
    finite = judge_finite(got, dtype=generator.case.dtype)
    both = generator.score(TokenBatch.of([scoring_sample.prompts.rows[0], [0]]), forced)
    if not finite.passed:
        verdict(finite)
    one, other = rows_of(got, [0]), rows_of(both, [0])
    verdict(unless_tied(scoring_sample.same(one, other, dtype=generator.case.dtype, rows=[0])))


@pytest.mark.conformance("text", one_dtype=True)
def test_a_prompt_beyond_the_limit_has_a_declared_outcome(
    generator: Generator, scoring_sample: ScoringSample, run: Run, verdict: GiveVerdict
) -> None:
    """One token more than the declared positions: a refusal or an error of the engine, or finite logits.

    Never a lost rank. Learned positions end there: plain transformers raises an IndexError of its own.
    """
    limit = generator.loaded[0].max_positions
    if limit is None or limit > LONGEST:
        raise NotApplicable(f"{limit or 'any number of'} positions: beyond them is further than a quick run can go")
    held = sum(one.parameters for one in generator.loaded)
    if generator.plan.torch_device == "cpu" and limit * held > MOST_WORK and not run.options.explore:
        raise NotApplicable(
            f"{limit} positions of {held / 1e6:.0f} M weights: beyond them is further than a quick run can go; "
            "--explore goes there"
        )
    batch = TokenBatch.of([np.resize(scoring_sample.forced, limit + 1).tolist()])
    try:
        got = generator.score(batch, scoring_sample.forced[:1, :2])
    except GroupLost:  # ended by the kernel for want of memory, which nobody declared
        raise
    except (BadInput, Unsupported, OutOfMemory, EngineFailed) as refusal:
        verdict(claims([], _refused(generator, scoring_sample, refusal), 1, dtype=generator.case.dtype, tier="text"))
        return
    verdict(judge_finite(got, dtype=generator.case.dtype))


def _refused(generator: Generator, scoring_sample: ScoringSample, refusal: GenqualError) -> str:
    """The refusal in a word, once the same ranks have answered again."""
    generator.generate(scoring_sample.few(1, 1).prompts, 1)
    return f"refused, and the ranks still answer: {str(refusal).splitlines()[0]}"
