"""A row is itself: neither its neighbours, its padding nor the request before reach it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from genqual.conformance.judgement import Judgement
from genqual.conformance.judges import logits
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.judges.self_checks import rows_of
from genqual.engines.base import TokenBatch
from genqual.ranks.client import Generator
from genqual.session.fixture_types import Drawn, DrawText, Examples, GiveVerdict, ScoringSample
from genqual.session.property_search import rows
from genqual.session.token_evidence import asked_alone, asked_between, tokens_only

pytestmark = pytest.mark.conformance("batching")

WIDTHS = (31, 32, 33, 63, 64, 65, 127, 128, 129)  # of the whole batch: tiles of kernels end at 32, 64 and 128


@pytest.mark.parametrize("row", [0, 3], ids="row{}".format)
def test_a_row_does_not_see_its_neighbours(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, row: int, verdict: GiveVerdict
) -> None:
    """The row alone against the row in its batch."""
    if tokens_only(generator):
        verdict(asked_alone(generator, scoring_sample.reference, rescore, row))
        return
    together = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    alone = generator.score(*scoring_sample.row(row))
    verdict(scoring_sample.same(alone, rows_of(together, [row]), dtype=generator.case.dtype, rows=[row]))


def test_a_row_is_itself_in_any_company(
    generator: Generator, scoring_sample: ScoringSample, token: SearchStrategy[int], examples: Examples
) -> None:
    """Drawn neighbours, as many as drawn, before it and after it."""
    prompt, forced = scoring_sample.prompts.rows[1], scoring_sample.forced[[1], :5]
    alone = generator.score(TokenBatch.of([prompt]), forced)

    def check(before: list[list[int]], after: list[list[int]]) -> Judgement:
        batch = TokenBatch.of([*before, prompt, *after])
        together = generator.score(batch, np.repeat(forced, len(batch.ids), axis=0))
        return scoring_sample.same(alone, rows_of(together, [len(before)]), dtype=generator.case.dtype, rows=[1])

    examples(check, before=rows(token), after=rows(token))


def test_the_order_of_rows_is_only_their_order(
    generator: Generator, scoring_sample: ScoringSample, examples: Examples
) -> None:
    """The same rows in another order: each takes its own results along."""
    some = scoring_sample.few(4, 5)
    plain = generator.score(some.prompts, some.forced)

    def check(order: list[int]) -> Judgement:
        batch = TokenBatch.of([some.prompts.rows[i] for i in order])
        moved = generator.score(batch, some.forced[order])
        return some.same(moved, rows_of(plain, order), dtype=generator.case.dtype, rows=order)

    examples(check, most=3, order=st.permutations(range(4)))


@pytest.mark.parametrize("padding", [1, 31, 64], ids="pad{}".format)
def test_left_padding_changes_nothing(
    generator: Generator, scoring_sample: ScoringSample, padding: int, verdict: GiveVerdict
) -> None:
    """More padding on the left, and so other places in the cache, but the same tokens to attend to.

    With 31 as many steps as there are: those whose logits are all looked at. A place that is wrong is so from the
    first step on, so the others take half of them.
    """
    plain = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    steps = scoring_sample.steps if padding == 31 else (scoring_sample.steps + 1) // 2
    some = scoring_sample.few(len(scoring_sample.prompts.rows), steps)
    padded = generator.score_once(scoring_sample.padded(padding), some.forced)
    verdict(some.same(padded, logits.steps_of(plain, steps), dtype=generator.case.dtype, rows=some.every_row))


def test_padding_to_a_tile_changes_nothing(
    generator: Generator, scoring_sample: ScoringSample, examples: Examples
) -> None:
    """Batches padded to one below, at and above 32, 64 and 128."""
    some = scoring_sample.few(4, 4)
    plain = generator.score(some.prompts, some.forced)

    def check(width: int) -> Judgement:
        batch = TokenBatch.of(some.prompts.rows, length=max(width, some.prompts.ids.shape[1]))
        padded = generator.score(batch, some.forced)
        return some.same(padded, plain, dtype=generator.case.dtype, rows=some.every_row)

    examples(check, most=4, width=st.sampled_from(WIDTHS))


def test_a_request_leaves_nothing_behind(
    generator: Generator,
    scoring_sample: ScoringSample,
    token: SearchStrategy[int],
    rescore: Rescore,
    examples: Examples,
) -> None:
    """A request, any other, and the first again: the same bits as before."""
    some = scoring_sample.few(4, 5)
    if tokens_only(generator):
        known = scoring_sample.reference.select(rows=[0, 1, 2, 3], steps=5) if scoring_sample.reference else None

        def judged(other: list[list[int]], steps: int) -> Judgement:
            return asked_between(generator, known, rescore, TokenBatch.of(other), steps)

        examples(judged, most=3, other=rows(token, most_rows=4), steps=st.integers(1, 6))
        return
    first = generator.score(some.prompts, some.forced)

    def check(other: list[list[int]], steps: int) -> Judgement:
        generator.generate(TokenBatch.of(other), steps)
        return logits.judge_bitwise(first, generator.score(some.prompts, some.forced), dtype=generator.case.dtype)

    examples(check, other=rows(token, most_rows=4), steps=st.integers(1, 6))


def test_requests_of_different_shapes(
    generator: Generator, scoring_sample: ScoringSample, rescore: Rescore, text: DrawText, examples: Examples
) -> None:
    """Requests of other rows and lengths, one after the other, each as a single pass without a cache says."""

    def check(requests: list[list[list[int]]]) -> Judgement:
        worst = one = None
        for request in requests:
            batch, forced = TokenBatch.of([row[:-3] for row in request]), np.array([row[-3:] for row in request])
            got = generator.score(batch, forced)
            whole, drawn = generator.score_prefill(batch, forced), Drawn(request, rescore)
            one = scoring_sample.same(got, whole, dtype=generator.case.dtype, drawn=drawn)
            if one.status == "no_reference" and scoring_sample.reference is not None:
                continue  # its few steps rest on near ties of routers: what the other requests say counts
            if not one.passed:
                return one
            worst = max((worst, one), key=lambda judgement: judgement.ratio or 0.0) if worst else one
        found = worst or one
        assert found is not None
        return found

    request = st.lists(text(least=4, most=12), min_size=1, max_size=4)
    examples(check, most=3, requests=st.lists(request, min_size=2, max_size=3))
