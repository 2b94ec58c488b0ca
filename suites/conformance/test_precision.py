"""The declared precision is the one that ran, and it holds as far as positions go."""

from __future__ import annotations

import pytest

from genqual.cases import SCHEMES
from genqual.conformance.judgement import ENVELOPE_FACTOR, fp32_limit_at
from genqual.conformance.judges.shards import judge_drift, judge_evidence, judge_smaller
from genqual.conformance.references.make import Reference
from genqual.engines.base import TokenBatch
from genqual.engines.registry import engine
from genqual.errors import NotApplicable
from genqual.ranks.client import Generator
from genqual.session.context import Run
from genqual.session.fixture_types import GiveVerdict, ScoringSample, unless_tied
from genqual.session.window_crossing import biased_by_distance, long_text, positions_beyond, settled_length

pytestmark = pytest.mark.conformance("precision")

FARTHEST = 1024  # rotary positions: the limit of most models is further than a quick run can go
FARTHEST_ALIBI = 512  # right fp32 reads 5e-6 there; its biases are as large as the position, as is their rounding
STEPS = 16
LONG = 2.5  # envelopes: a trained model rounds rightly by up to 2.1 on one long text (docs/judge.md, "Long rows")
PART = 256  # tokens a pass, so that a long text needs no square of scores


def test_drift_is_that_of_the_dtype(
    generator: Generator, reference: Reference, scoring_sample: ScoringSample, verdict: GiveVerdict
) -> None:
    """As far from the oracle as the declared dtype takes it, and not nearer: nothing else ran in its place."""
    verdict(
        judge_drift(
            generator.score_once(scoring_sample.prompts, scoring_sample.forced), reference, dtype=generator.case.dtype
        )
    )


def test_quantised_weights_are_smaller(generator: Generator, run: Run, verdict: GiveVerdict) -> None:
    """Quantisation that only rounds, and keeps wide weights, is neither faster nor smaller."""
    precision = generator.case.dtype
    if precision not in SCHEMES:
        raise NotApplicable(f"{precision} quantises nothing")
    total = run.references.parameters(generator.case.model)
    if total is None:
        raise NotApplicable(f"how many weights {generator.case.model} has cannot be read without an engine")
    held, found = sum(one.weight_bytes for one in generator.loaded), generator.inspect()
    emulated = next((one["emulated"] for one in found if one.get("emulated")), None)
    if emulated is not None:
        raise NotApplicable(f"{generator.case.engine} emulates {precision} here: {emulated}")
    verdict(judge_smaller(found, held, 2 * total, scheme=precision))


@pytest.mark.conformance("precision", requires_ability="passes")
def test_positions_near_the_limit(
    generator: Generator, scoring_sample: ScoringSample, run: Run, verdict: GiveVerdict
) -> None:
    """Rotary angles and ALiBi's biases of the last positions, read in parts, against the oracle on the same text.

    Of a model with windows the text reaches beyond each of them. Where rotary frequencies follow the length of the
    text, only one pass over all of it is defined: that is judged, a part further than where they change. Of a mixture
    of experts in a narrow dtype most of a long text follows a near tie of a router; where it took another expert, it
    is fp32 that tells.
    """
    declared, dtype = generator.loaded[0].max_positions, generator.case.dtype
    biased = biased_by_distance(generator.plan.model, declared)
    if biased and dtype != "fp32":
        raise NotApplicable(
            f"ALiBi's biases in {dtype} are coarser than a position beyond a few hundred, in transformers itself "
            "(bf16 reads nrms 0.16 at 256 positions, 0.6 at 1024): no fault-free envelope exists there"
        )
    total = min(FARTHEST_ALIBI if biased else FARTHEST, declared or FARTHEST)
    beyond = positions_beyond(generator.plan.model, declared)
    total, settled = max(total, beyond), settled_length(generator.plan.model)
    whole = settled is not None and total > settled
    if settled is not None and whole:
        total, beyond = min(total, settled + PART), 0
    text = long_text(generator, scoring_sample, total + 1)
    # Behind a window the last tokens are decoded one by one, from the model's own cache.
    single = STEPS if beyond else 0
    widths = [min(PART, total - single - start) for start in range(0, total - single, PART)] + [1] * single
    widths = [total] if whole else widths
    batch, forced = TokenBatch.of([text[: total + 1 - STEPS].tolist()]), text[None, -STEPS:]
    got = generator.score_passes(batch, forced, widths)
    factor = ENVELOPE_FACTOR if generator.plan.model.source == "embedded" else LONG
    found = run.references.against_oracle(generator.case, got, text, STEPS, limit=fp32_limit_at(total), factor=factor)
    verdict(unless_tied(found))


def test_what_was_asked_for_really_ran(
    generator: Generator, scoring_sample: ScoringSample, run: Run, verdict: GiveVerdict
) -> None:
    """The evidence of each rank: dtype of its weights, exact fp32, its share of them, its graphs."""
    if generator.plan.tier == "tokens":
        raise NotApplicable(f"{generator.case.engine} shows tokens only: what it holds is its own word")
    generator.generate(scoring_sample.few(1, 3).prompts, 3)
    loaded = generator.loaded
    found = generator.inspect()
    if any(one.get("engine") is None for one in found):
        raise NotApplicable(f"{generator.case.engine} says nothing of what ran")
    verdict(
        judge_evidence(
            list(found),
            [one.parameters for one in loaded],
            dtype=generator.case.dtype,
            ranks=generator.case.ranks,
            total=run.references.parameters(generator.case.model),
            graph=engine(generator.case.engine).lacking("graph") is None,
        )
    )
