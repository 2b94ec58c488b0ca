"""The key-value cache changes nothing: however a text is read, its logits are those of one pass over it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from genqual.cases import SHARED_ROUNDING
from genqual.conformance.judgement import Judgement
from genqual.conformance.judges import logits
from genqual.conformance.judges.free_run import Rescore
from genqual.engines.base import TokenBatch
from genqual.errors import NotApplicable
from genqual.ranks.client import Generator
from genqual.session.fixture_types import Drawn, DrawText, Examples, GiveVerdict, ScoringSample, unless_tied
from genqual.session.property_search import cuts
from genqual.session.token_evidence import asked_on, tokens_only
from genqual.session.window_crossing import crossed_wrongly

pytestmark = pytest.mark.conformance("cache")

EDGES = (32, 64, 128)
EDGE_STEPS = 3


def test_cache_equals_no_cache(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """The decode loop with its cache against a single pass that has none; of a server, its cache of prefixes."""
    if tokens_only(generator):
        verdict(asked_on(generator, scoring_sample.reference, rescore))
        return
    cached = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    single = generator.score_prefill(scoring_sample.prompts, scoring_sample.forced)
    verdict(scoring_sample.same(cached, single, dtype=generator.case.dtype, rows=scoring_sample.every_row))


def test_prefill_equals_decode_at_every_prefix(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, text: DrawText, examples: Examples
) -> None:
    """Decoding a whole text after its first token alone: position 1 is decoded as often as position 10 is."""

    def check(text: list[int]) -> Judgement:
        batch, rest = TokenBatch.of([text[:1]]), np.array([text[1:]])
        decoded, read = generator.score(batch, rest), generator.score_prefill(batch, rest)
        return scoring_sample.same(decoded, read, dtype=generator.case.dtype, drawn=Drawn([text], rescore))

    examples(check, most=3, text=text(least=6, most=12))


@pytest.mark.conformance("cache", requires_ability="passes")
def test_chunked_prefill_equals_one_pass(
    generator: Generator, scoring_sample: ScoringSample, examples: Examples, verdict: GiveVerdict
) -> None:
    """Wherever the text is cut, each part attends to all that was read before it, up to a layer's window.

    A model with a recurrent state reads all padding in the first pass: in a pass of one token upstream takes that
    token for a generated one, whatever the mask says, and padding would enter the state.
    """
    wrong = crossed_wrongly(generator, scoring_sample, detours=False)
    if wrong is not None:
        verdict(wrong)
    some = scoring_sample.few(4, 6)
    length = some.prompts.ids.shape[1] + 5
    padding = int((some.prompts.mask == 0).sum(axis=1).max()) if generator.loaded[0].state_bytes else 0
    whole = generator.prefill_once(some.prompts, some.forced)

    def check(widths: list[int]) -> Judgement:
        parts = generator.score_passes(some.prompts, some.forced, widths)
        return some.same(parts, whole, dtype=generator.case.dtype, rows=some.every_row)

    examples(check, most=6, widths=cuts(length, first=padding + 1))


@pytest.mark.conformance("cache", requires_ability="graph")
def test_a_replayed_graph_equals_eager(
    generator: Generator, one_rank: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Static cache and captured graph against an eager cache that grows."""
    replayed = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    eager = one_rank.score_once(scoring_sample.prompts, scoring_sample.forced)
    verdict(scoring_sample.same(replayed, eager, dtype=generator.case.dtype, rows=scoring_sample.every_row))


@pytest.mark.conformance("cache", requires_ability="graph")
def test_a_graph_replayed_twice_gives_the_same_bits(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """With another text in between, so that inputs left in its buffers show."""
    first = generator.score(scoring_sample.prompts, scoring_sample.forced)
    generator.score(scoring_sample.prompts, scoring_sample.forced[:, ::-1].copy())
    verdict(
        logits.judge_bitwise(
            first, generator.score(scoring_sample.prompts, scoring_sample.forced), dtype=generator.case.dtype
        )
    )


def test_later_tokens_never_alter_earlier_logits(
    generator: Generator, scoring_sample: ScoringSample, vocabulary: int, examples: Examples
) -> None:
    """Causality: one pass over a text, and over another that differs from some place on; before it, to the bit.

    A scheme that rounds a token by the others of its pass is held to what fault-free runs of it differ by, and so is a
    mixture of experts: an expert's product is as long as the tokens that chose it are many, and its kernel with it.
    """
    some, dtype = scoring_sample.few(4, 9), generator.case.dtype
    first = generator.score_prefill(some.prompts, some.forced)

    def check(place: int, other: int) -> Judgement:
        changed = some.forced.copy()
        changed[:, place:] = (changed[:, place:] + 1 + other) % vocabulary
        # The logits that choose the token at `place` have read only what comes before it.
        second = generator.score_prefill(some.prompts, changed)
        upto = place + 1
        a, b = (logits.steps_of(one, upto) for one in (first, second))
        if dtype in SHARED_ROUNDING or some.of_experts:
            return some.same(a, b, dtype=dtype, rows=some.every_row)
        return logits.judge_bitwise(a, b, dtype=dtype, forced=False)

    examples(check, most=4, place=st.integers(0, 7), other=st.integers(0, vocabulary - 2))


@pytest.mark.conformance("cache", requires_ability="passes")
def test_a_cropped_cache_is_as_if_never_longer(
    generator: Generator, scoring_sample: ScoringSample, examples: Examples, verdict: GiveVerdict
) -> None:
    """Reading other tokens and cropping them again, as speculative decoding does, leaves nothing behind."""
    wrong = crossed_wrongly(generator, scoring_sample, detours=True)
    if wrong is not None:
        verdict(wrong)
    some = scoring_sample.few(4, 6)
    length = some.prompts.ids.shape[1] + 5
    whole = generator.prefill_once(some.prompts, some.forced)

    def check(first: int, detour: int) -> Judgement:
        widths = [first] + [1] * (length - first)
        detours = [0, *([detour] * (length - first))]
        got = generator.score_passes(some.prompts, some.forced, widths, detours)
        return some.same(got, whole, dtype=generator.case.dtype, rows=some.every_row)

    examples(check, most=3, first=st.integers(length - 4, length - 2), detour=st.integers(1, 5))


@pytest.mark.parametrize("edge", EDGES, ids="edge{}".format)
def test_bucket_edges(
    generator: Generator, scoring_sample: ScoringSample, edge: int, rescore: Rescore, verdict: GiveVerdict
) -> None:
    """Prompts one below, at and above a length where kernels and static caches change their shape."""
    positions = generator.loaded[0].max_positions
    if positions is not None and positions < edge + 1 + EDGE_STEPS:
        raise NotApplicable(f"{positions} positions: a prompt of {edge + 1} tokens and what follows are beyond them")
    row = np.resize(np.concatenate([scoring_sample.forced[0], scoring_sample.forced[-1]]), edge + 1).tolist()
    batch, rest = TokenBatch.of([row[2:], row[1:], row]), scoring_sample.forced[:3, :EDGE_STEPS]
    together = [generator.score(batch, rest), generator.score_prefill(batch, rest)]
    drawn = Drawn.after(batch, rest, rescore)
    verdict(unless_tied(scoring_sample.same(together[0], together[1], dtype=generator.case.dtype, drawn=drawn)))
