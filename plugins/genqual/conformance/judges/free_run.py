"""Judge a free greedy run: the same text where the oracle is sure, a choice within rounding elsewhere. Pure: NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.judgement import (
    FP32_LIMIT,
    MARGIN_SIGMAS,
    Judgement,
    judged_by,
)
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.oracle.registry import Oracle
from genqual.conformance.references.data import Reference
from genqual.conformance.router_ties import MarginsOf, near_cells, tie_margin

Rescore = Callable[[Sequence[int]], F64]
"""`Oracle.logits`: ids (tokens,) to logits (tokens, vocabulary)."""


@dataclass(frozen=True, slots=True)
class ByOracle:
    """A `Rescore` that also says where a text is near a tie of a router; `oracle` gives the oracle when asked."""

    oracle: Callable[[], Oracle]

    def __call__(self, ids: Sequence[int]) -> F64:
        return self.oracle().logits(ids)

    def router_margins(self, ids: Sequence[int]) -> F64 | None:
        """Margins (tokens, layers); None of an oracle without routers, and of one that does not say."""
        asked = getattr(self.oracle(), "router_margins", None)
        return asked(ids) if asked else None


def margins_by(rescore: Rescore | None) -> MarginsOf | None:
    """What says routers' margins, of a `rescore` that can."""
    return getattr(rescore, "router_margins", None)


@dataclass(frozen=True, slots=True)
class _Row:
    """One prompt: steps judged, the gap (logit units) nearest to its bound and its step, what is wrong if anything."""

    judged: int
    left: bool
    step: int
    gap: float
    wrong: str = ""
    excused: int = 0  # choices that only a near tie of a router explains


def judge_free_run(
    tokens: I64,
    reference: Reference | None,
    *,
    dtype: str,
    rescore: Rescore | None = None,
    fp32_limit: float = FP32_LIMIT,
    k: float = MARGIN_SIGMAS,
) -> Judgement:
    """Judge `tokens` (rows, steps), generated from the reference's prompts, in the precision mode of `dtype`.

    A row must equal the reference up to the first step whose margin is at most k sigma; leaving it earlier fails. What
    it chooses when it leaves must lie within k sigma of the oracle's best, and so must each later choice, judged by
    `rescore` on the row's own prefix. Without `rescore`, judging ends there, and the verdict says how far it came.
    Choices that rest on a near tie of a router may be any, and are counted. A `rescore` that is `ByOracle` says where
    these are on the row's own text; without it, any choice after the row has left may rest on one.
    """
    by = judged_by(reference, dtype, "tokens", fp32_limit=fp32_limit, k=k)
    if isinstance(by, Judgement):
        return by
    reference, tolerance = by
    lane = tolerance.lane
    wanted = (reference.rows, reference.steps)
    if tokens.shape != wanted or tokens.min() < 0 or tokens.max() >= reference.vocabulary:
        text = (
            f"Tokens of shape {tokens.shape} were given; {wanted} (prompts, steps) of ids below "
            f"{reference.vocabulary} were wanted."
        )
        return Judgement("fail", lane, "tokens", text, independent=reference.independent, shape=wanted[::-1])
    bound = tolerance.bound[:, 0]
    near = near_cells(reference, tie_margin(tolerance), tokens, margins_by(rescore))
    rows = [
        _row(tokens[r], reference, r, bound, None if near is None else near[:, r], rescore)
        for r in range(reference.rows)
    ]
    judged, total = sum(row.judged for row in rows), tokens.size
    worst = max(range(len(rows)), key=lambda r: (bool(rows[r].wrong), rows[r].gap / bound[rows[r].step]))
    wrong = [row.wrong for row in rows if row.wrong]
    left, tied = sum(row.left for row in rows), sum(row.excused for row in rows)
    if wrong:
        text = f"{lane} mode: {rows[worst].wrong}" + (f" ({len(wrong)} prompts fail)." if len(wrong) > 1 else ".")
        text += "" if reference.independent else f" Judged by {reference.oracle}."
    else:
        text = (
            f"{lane} mode, tokens only, against {reference.oracle}: {len(rows) - left} of {len(rows)} prompts equal "
            f"the reference, {left} left it where its margin allows; {judged} of {total} choices judged"
            + ("." if judged + tied == total else "; the rest follows text that no oracle has scored.")
            + ("" if near is None else f" {tied} choices rest on a router's near tie, and are not judged.")
        )
    return Judgement(
        status="fail" if wrong else "pass",
        lane=lane,
        tier="tokens",
        explanation=text,
        flips=left,
        flips_beyond_margin=len(wrong),
        worst=(rows[worst].step, worst),
        judged=judged,
        total=total,
        independent=reference.independent,
        shape=wanted[::-1],
    )


def _row(
    tokens: I64, reference: Reference, row: int, bound: F64, near: NDArray[np.bool_] | None, rescore: Rescore | None
) -> _Row:
    """Judge the tokens (steps,) of one prompt; `bound` (steps,) in logit units, `near` (steps,) a router's tie."""
    near = np.zeros(len(tokens), dtype=np.bool_) if near is None else near
    want, margins = reference.tokens[:, row], reference.margins[:, row]
    if (tokens == want).all():
        return _Row(len(tokens), left=False, step=0, gap=0.0)
    step = int((tokens != want).argmax())
    if margins[step] > bound[step] and not near[step]:
        wrong = (
            f"step {step} of prompt {row} chose {tokens[step]}, the oracle {want[step]} by {margins[step]:.4g}, where "
            f"a fault-free run may leave the text only below {bound[step]:.4g}"
        )
        return _Row(step + 1, left=True, step=step, gap=float(margins[step]), wrong=wrong)
    if rescore is None and near[step]:
        return _Row(step, left=True, step=step, gap=0.0, excused=1)
    if rescore is None:
        return _at_divergence(int(tokens[step]), reference, row, step, float(bound[step]))
    prompt = reference.prompts[row]
    logits = rescore([*prompt, *(int(t) for t in tokens[:-1])])[len(prompt) - 1 :]
    gaps = logits.max(axis=-1) - logits[np.arange(len(tokens)), tokens]
    gaps[:step] = 0.0
    # Written so that a gap that is not a number counts as wrong.
    outside = ~(gaps <= bound)
    tied = outside & near & np.isfinite(gaps)
    gaps, outside = np.where(tied, 0.0, gaps), outside & ~tied
    at = int(outside.argmax()) if outside.any() else int((gaps / bound).argmax())
    wrong = (
        f"step {at} of prompt {row} chose {tokens[at]}, the oracle, given the same prefix, {logits[at].argmax()} by "
        f"{gaps[at]:.4g} (allowed: {bound[at]:.4g}); the row had left the reference at step {step}"
    )
    judged, excused = len(tokens) - int(tied.sum()), int(tied.sum())
    return _Row(judged, True, at, float(gaps[at]), wrong if outside.any() else "", excused)


def _at_divergence(token: int, reference: Reference, row: int, step: int, bound: float) -> _Row:
    """Judge the one choice that leaves the reference, by the logits that the reference lists."""
    ids, logits = reference.top_ids[step, row], reference.top_logits[step, row]
    listed = ids == token
    # A token that is not listed lies at least as far behind as the last one listed.
    gap = float(logits[0] - (logits[listed][0] if listed.any() else logits[-1]))
    if gap > bound:
        wrong = (
            f"step {step} of prompt {row} chose {token}, {gap:.4g} {'' if listed.any() else 'or more '}behind the "
            f"oracle's {ids[0]} (allowed: {bound:.4g})"
        )
        return _Row(step + 1, left=True, step=step, gap=gap, wrong=wrong)
    # Not listed and yet perhaps within the bound: that choice cannot be judged either.
    return _Row(step + int(listed.any()), left=True, step=step, gap=gap)
