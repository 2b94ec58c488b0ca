"""Dataset mode: every prompt is generated from, in order, none lost and none twice, each as it is alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from genqual.conformance.judges import self_checks
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.judges.text import judge_same_text
from genqual.engines.base import TokenBatch
from genqual.ranks.client import Generator
from genqual.session.context import Run
from genqual.session.dataset_run import DatasetRun, generate_pairs, problems, read_pairs
from genqual.session.fixture_types import Drawn, GiveVerdict, ScoringSample


@pytest.mark.conformance("text", requires_option="prompts")
def test_every_prompt_of_a_data_set_has_its_pair(
    generator: Generator, run: Run, dataset: DatasetRun, verdict: GiveVerdict
) -> None:
    """The pairs lie below the state directory; an interrupted run goes on where it was."""
    count = generate_pairs(generator, dataset, run.progress, run.warn)
    found, dtype = list(problems(dataset, generator.plan.model)), generator.case.dtype
    verdict(self_checks.judge_whole(found, count, dtype=dtype, steps=dataset.new_tokens))


@pytest.mark.conformance("text", one_dtype=True)
def test_a_data_set_equals_its_prompts_one_by_one(
    generator: Generator,
    run: Run,
    scoring_sample: ScoringSample,
    few_pairs: DatasetRun,
    rescore: Rescore,
    verdict: GiveVerdict,
) -> None:
    """Batches that do not divide the prompts: complete, in order, and each the text that its prompt gives alone."""
    count = generate_pairs(generator, few_pairs, run.progress)
    dtype = generator.case.dtype
    found = list(problems(few_pairs, generator.plan.model))
    whole = self_checks.judge_whole(found, count, dtype=dtype, steps=few_pairs.new_tokens)
    if not whole.passed:
        verdict(whole)
    rows, tokens = read_pairs(few_pairs)
    verdicts = []
    for row, new in zip(rows, tokens, strict=True):
        batch = TokenBatch.of([row])
        alone = generator.generate(batch, few_pairs.new_tokens).tokens
        scores = partial(generator.score, batch, alone)
        known, ties = scoring_sample.tolerance(dtype), Drawn.after(batch, alone, rescore).ties
        verdicts.append(judge_same_text(alone, new[None], scores, dtype=dtype, ties=ties, **known))
    worst = next((one for one in verdicts if not one.passed), whole)
    verdict(replace(worst, shape=whole.shape))
