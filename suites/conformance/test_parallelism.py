"""How many ranks share the work, and where its weights lie, changes nothing that a user can see."""

from __future__ import annotations

import numpy as np
import pytest

from genqual.conformance.judges import logits, self_checks
from genqual.conformance.judges.shards import aligned, judge_fetched, judge_shards, put_away, share_limit, spread
from genqual.conformance.judges.text import judge_stopped, stopped
from genqual.engines.base import TokenBatch
from genqual.errors import NotApplicable
from genqual.ranks.client import Generator
from genqual.session.fixture_types import GiveVerdict, ScoringSample

pytestmark = pytest.mark.conformance("parallelism")

SHARES = 8


@pytest.mark.conformance("parallelism", min_ranks=2)
def test_tensor_parallel_degree(
    generator: Generator, one_rank: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """The logits of several ranks against those of one rank of plain transformers."""
    several = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    one = one_rank.score_once(scoring_sample.prompts, scoring_sample.forced)
    verdict(scoring_sample.same(several, one, dtype=generator.case.dtype, rows=scoring_sample.every_row))


@pytest.mark.conformance("parallelism", requires_ability="split")
def test_a_split_over_devices_gives_the_same_bits(
    generator: Generator, one_rank: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Layers on several devices compute what they compute on one."""
    if not spread(generator.inspect()):
        raise NotApplicable(f"{generator.case.engine} put all layers on one device here")
    split = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    whole = one_rank.score_once(scoring_sample.prompts, scoring_sample.forced)
    verdict(logits.judge_bitwise(split, whole, dtype=generator.case.dtype))


@pytest.mark.conformance("parallelism", requires_ability="streams", min_ranks=2)
def test_streams_are_independent(generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict) -> None:
    """Ranks that generate from prompts of their own give what each gives when all have the same."""
    rows = scoring_sample.prompts.rows
    pairs = [TokenBatch.of([rows[2 * rank % len(rows)], rows[-1 - rank]]) for rank in range(generator.case.ranks)]
    got = generator.generate_streams(pairs, 6)
    want = [generator.generate(one, 6).tokens for one in pairs]
    problems = [f"stream {rank} is another text beside the others" for rank in range(len(pairs))
                if not np.array_equal(got[rank], want[rank])]  # fmt: skip
    verdict(self_checks.claims(problems, f"{len(pairs)} streams are themselves", 12 * len(pairs),
                              dtype=generator.case.dtype, tier="tokens", shape=(6, 2 * len(pairs))))  # fmt: skip


@pytest.mark.conformance("parallelism", min_ranks=2, requires_ability="stops")
def test_rows_that_end_early_end_on_every_rank(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Prompts of unequal lengths, rows that meet their end at different steps: no rank waits, none goes on."""
    tokens = generator.generate(scoring_sample.prompts, 10).tokens
    eos = [int(tokens[0, 2]), int(tokens[1, 5])]
    got = generator.generate_until(scoring_sample.prompts, 10, eos=eos)
    verdict(judge_stopped(got, stopped(tokens, eos=eos), dtype=generator.case.dtype, what=f"eos {eos}"))


@pytest.mark.conformance("parallelism", requires_ability="offload")
def test_offloaded_weights_give_the_same_bits(
    generator: Generator, one_rank: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Weights that are fetched back for each pass are those that were put away.

    Beside weights at odd addresses, as those that are mapped from a file, other bits are no fault: a product of one row
    has other last bits there, in torch itself. Then they are the same weights by their hash, and the same within
    rounding.
    """
    if not put_away(generator.inspect()):
        raise NotApplicable(f"{generator.case.engine} offloaded no weight here: all of them fit")
    fetched = generator.score_once(scoring_sample.prompts, scoring_sample.forced)
    stayed = one_rank.score_once(scoring_sample.prompts, scoring_sample.forced)
    dtype = generator.case.dtype
    verdict(
        judge_fetched(
            logits.judge_bitwise(fetched, stayed, dtype=dtype),
            scoring_sample.same(fetched, stayed, dtype=dtype, rows=scoring_sample.every_row),
            aligned=aligned([*generator.inspect(), *one_rank.inspect()]),
            same_weights=hashes(generator) == hashes(one_rank),
        )
    )


def hashes(generator: Generator) -> list[str]:
    """Of the weights of each rank, as it loaded them."""
    return [loaded.weight_hash for loaded in generator.loaded]


@pytest.mark.conformance("parallelism", min_ranks=2)
def test_all_ranks_agree_on_every_token(
    generator: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """A rank that chose another token went on with another text."""
    runs = generator.generate_ranks(scoring_sample.prompts, scoring_sample.steps)
    verdict(self_checks.judge_agreement([run.tokens for run in runs], dtype=generator.case.dtype))


@pytest.mark.conformance("parallelism", min_ranks=2)
def test_every_share_of_the_vocabulary_is_reached(
    generator: Generator, one_rank: Generator, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """Whole logits, share by share: a lost shard of the head is nobody's best token, and so no text shows it."""
    several = generator.score(scoring_sample.prompts, scoring_sample.forced, logits=True)
    one = one_rank.score(scoring_sample.prompts, scoring_sample.forced, logits=True)
    limit = share_limit(scoring_sample.reference, generator.case.dtype)
    known = scoring_sample.reference
    verdict(judge_shards(several, one, dtype=generator.case.dtype, parts=SHARES, limit=limit, reference=known))
