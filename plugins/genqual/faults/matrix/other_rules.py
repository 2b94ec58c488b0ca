"""How others judge a run: the same text, top-5 at the divergence, the largest logit error. Pure: NumPy only.

Kept beside our own rules in the detection matrix, on the same runs, so that what each misses can be seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.references.data import Reference
from genqual.engines.base import Scores

RULES: Final[Mapping[str, str]] = {
    "rule exact text": "greedy text equals the reference's",
    "rule top 5": "at the first divergence each token is among the other's five best (vLLM's check_logprobs_close)",
    "rule dlogit 0.1": "no logit is off by 0.1 or more",
    "rule dlogit 1": "no logit is off by 1 or more",
}


def alarms(tokens: I64, own: Scores, forced: Scores, reference: Reference, exact: F64) -> dict[str, tuple[bool, str]]:
    """Whether each rule alarms, and why.

    `tokens` (rows, steps) of a free run and `own` its scores, forced on it; `forced` the scores, with whole logits, on
    the reference's tokens, whose `exact` logits (steps, rows, vocabulary) are the oracle's.
    """
    want = reference.forced
    differ = int((tokens != want).any(axis=1).sum())
    parted = _outside_top(tokens, own, reference, 5)
    worst = _largest(forced.logits, exact)
    return {
        "rule exact text": (differ > 0, f"{differ} of {len(want)} texts differ"),
        "rule top 5": (parted > 0, f"{parted} of {differ} divergences outside the five best"),
        "rule dlogit 0.1": (not worst < 0.1, f"the largest error of a logit is {worst:.3g}"),
        "rule dlogit 1": (not worst < 1.0, f"the largest error of a logit is {worst:.3g}"),
    }


def _outside_top(tokens: I64, own: Scores, reference: Reference, best: int) -> int:
    """Rows whose first divergence is outside the `best` ids of either run."""
    count = 0
    for row, differs in enumerate(tokens != reference.forced):
        if not differs.any():
            continue
        step = int(differs.argmax())
        mine, theirs = tokens[row, step], reference.forced[row, step]
        near = mine in reference.top_ids[step, row, :best] and theirs in own.top_ids[step, row, :best]
        count += not near
    return count


def _largest(logits: NDArray[np.float32] | None, exact: F64) -> float:
    """The largest error of a logit, not centred, as others compute it; nan where one is not finite."""
    if logits is None or logits.shape != exact.shape:
        return float("nan")
    return float(np.abs(logits.astype(np.float64) - exact).max())
