"""What our own judges say of a run when they are shown less of it than its logits. Pure: NumPy only.

Judged beside all properties in the detection matrix, on the same runs, so that the price of less evidence can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from genqual.conformance.judgement import Judgement
from genqual.conformance.judges.free_run import Rescore, judge_free_run, margins_by
from genqual.conformance.judges.logprobs import judge_top
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.references.data import Reference
from genqual.engines.base import BEST, Scores
from genqual.faults.matrix.store import Outcome

TIERS: Final[Mapping[str, str]] = {
    f"tier top {BEST}": f"the tokens of a free run, and the {BEST} best log-probabilities of each step",
    "tier tokens": "the tokens of a free run, re-scored by the oracle",
}

_OUTCOMES: Final[Mapping[str, Outcome]] = {"pass": "pass", "fail": "alarm", "no_reference": "not judged"}


def alarms(
    tokens: I64, own: Scores, reference: Reference, dtype: str, rescore: Rescore, known: F64
) -> Iterator[tuple[str, Outcome, str]]:
    """Each tier, its outcome and why.

    `tokens` (rows, steps) of a free run and `own` its scores, forced on it; `known` logits (steps, rows, vocabulary)
    are the oracle's on the reference's tokens. The oracle scores each text that left them once.
    """
    once = _Once(rescore)

    logprobs = own.top_logits[..., :BEST] - own.logsumexp[..., None]
    # Where logits are not finite the statistics are zero; an engine would have said what it computed.
    logprobs = np.where(own.finite[..., None], logprobs, np.nan)
    ids = own.top_ids[..., :BEST]
    said = (
        judge_top(tokens, ids, logprobs, reference, dtype=dtype, rescore=once, known=known),
        judge_free_run(tokens, reference, dtype=dtype, rescore=once),
    )
    for tier, judgement in zip(TIERS, said, strict=True):
        yield tier, *_outcome(judgement)


class _Once:
    """`rescore`, asked once a text; it says routers' margins where `rescore` does."""

    def __init__(self, rescore: Rescore) -> None:
        self._rescore, self._scored = rescore, dict[tuple[int, ...], F64]()
        self.router_margins = margins_by(rescore)

    def __call__(self, ids: Sequence[int]) -> F64:
        key = tuple(int(i) for i in ids)
        if key not in self._scored:
            self._scored[key] = self._rescore(key)
        return self._scored[key]


def _outcome(judgement: Judgement) -> tuple[Outcome, str]:
    return _OUTCOMES[judgement.status], "" if judgement.passed else judgement.explanation[:300]
