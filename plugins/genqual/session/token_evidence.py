"""Properties of an engine that shows tokens, and at most its best log-probabilities: asked in ways that must agree.

Such an engine computes in another process, which keeps what it has read. It may be right the first time and wrong when
its cache answers, or beside other requests; so each answer is judged by the oracle, whatever came before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from genqual.conformance.judgement import Judgement
from genqual.conformance.judges import logits
from genqual.conformance.judges import logprobs as judge_top
from genqual.conformance.judges.free_run import Rescore
from genqual.conformance.references.make import Reference
from genqual.engines.base import TokenBatch
from genqual.errors import NotApplicable
from genqual.ranks.client import Generator

ROWS: Final = 4  # prompts, and steps of each: a server may take a second for a request, and each property asks several
STEPS: Final = 16


def tokens_only(generator: Generator) -> bool:
    """Whether the engine shows no logits, so that properties of logits are asked of what it does show."""
    return generator.plan.tier == "tokens"


def asked_again(generator: Generator, reference: Reference | None, rescore: Rescore) -> Judgement:
    """The same prompts twice: the second answer is as right as the first."""
    return _each(generator, _few(reference), rescore, ("asked first", None), ("asked again", None))


def asked_alone(generator: Generator, reference: Reference | None, rescore: Rescore, row: int) -> Judgement:
    """One prompt by itself, then beside others, then by itself once more."""
    others = _few(reference, row)
    one = others.select(rows=[0]) if others else None
    beside = ("beside the others", others)
    return _each(generator, one, rescore, (f"prompt {row} alone", one), beside, (f"prompt {row} alone afterwards", one))


def asked_on(generator: Generator, reference: Reference | None, rescore: Rescore) -> Judgement:
    """Prompts, then the same with the first half of what follows them: a shared prefix, which a cache answers."""
    some = _few(reference)
    longer = some.after(some.steps // 2) if some and some.steps > 1 else None
    return _each(generator, some, rescore, ("the prompts", None), ("prompts that begin with them", longer))


def asked_between(
    generator: Generator, reference: Reference | None, rescore: Rescore, other: TokenBatch, steps: int
) -> Judgement:
    """The prompts, another request, and the prompts once more."""
    first = _judged(generator, reference, rescore, "asked first")
    if first.status != "pass":
        return first
    generator.generate(other, steps)
    return _judged(generator, reference, rescore, "asked again after another request")


def _few(reference: Reference | None, first: int = 0) -> Reference | None:
    """Some prompts of the reference, `first` before all, and some steps of each."""
    if reference is None:
        return None
    rows = [first, *(row for row in range(reference.rows) if row != first)][:ROWS]
    return reference.select(rows=rows, steps=min(STEPS, reference.steps))


def _each(
    generator: Generator, reference: Reference | None, rescore: Rescore, *ways: tuple[str, Reference | None]
) -> Judgement:
    """The first of `ways` that is not right, else the last; each has its own reference, or the common one."""
    found: list[Judgement] = []
    for words, own in ways:
        found.append(_judged(generator, own or reference, rescore, words))
        if found[-1].status != "pass":
            break
    return found[-1]


def _judged(generator: Generator, reference: Reference | None, rescore: Rescore, words: str) -> Judgement:
    """Judge what the engine shows of a free run on the reference's prompts: best log-probabilities, else tokens."""
    dtype = generator.case.dtype
    if reference is None:
        nothing = np.zeros((0, 0), dtype=np.int64)
        return logits.judge_free_run(nothing, None, dtype=dtype)
    prompts = TokenBatch.of(reference.prompts)
    try:
        tokens, ids, logprobs = generator.generate_top(prompts, reference.steps)
    except NotApplicable:
        tokens = generator.generate(prompts, reference.steps).tokens
        found = logits.judge_free_run(tokens, reference, dtype=dtype, rescore=rescore)
    else:
        found = judge_top.judge_top(tokens, ids, logprobs, reference, dtype=dtype, rescore=rescore)
    return replace(found, explanation=f"{words[0].upper()}{words[1:]}: {found.explanation}")
