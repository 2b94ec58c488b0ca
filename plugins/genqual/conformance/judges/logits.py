"""Judge logits against the oracle, or against another run. Pure: NumPy only; no pytest, no torch, no clock.

The rules and where their numbers come from: docs/judge.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.judgement import (
    ENVELOPE_FACTOR,
    FP32_LIMIT,
    MARGIN_SIGMAS,
    Judgement,
    Tolerance,
    between_runs,
    fp32_limit_at,
    judged_by,
    precision_mode_of,
)
from genqual.conformance.judges.free_run import judge_free_run
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.references.data import Reference, oracle_words
from genqual.conformance.router_ties import MOST_EXCUSED, excused, excused_of_few, near_cells, near_ties, tie_margin
from genqual.conformance.tolerance import RoundingEnvelope, cell_errors
from genqual.engines.base import Scores

__all__ = [
    "Judgement",
    "fp32_limit_at",
    "judge_bitwise",
    "judge_free_run",
    "judge_same",
    "judge_scores",
    "nrms",
    "steps_of",
]


def nrms(projections: NDArray[np.float32], reference: Reference) -> float:
    """RMS centred logit error of `projections` (steps, rows, 256) over the spread of the oracle's logits.

    Pooled over steps and rows, dimensionless; nan or inf when a projection is. Source: docs/judge.md, "The statistic".
    """
    return _rms(cell_errors(projections, reference.projections)) / reference.pooled_spread


def judge_scores(
    scores: Scores,
    reference: Reference | None,
    *,
    dtype: str,
    fp32_limit: float = FP32_LIMIT,
    envelope_factor: float = ENVELOPE_FACTOR,
    k: float = MARGIN_SIGMAS,
) -> Judgement:
    """Judge an engine's `scores`, forced on the reference's tokens, in the precision mode of `dtype`.

    `dtype` is "fp32" (TF32 off), or a scheme that the reference has an envelope of. Never raises on bad scores: they
    are the finding. No reference, or none of this scheme, is status "no_reference", never a pass.
    """
    by = judged_by(reference, dtype, "logits", fp32_limit=fp32_limit, factor=envelope_factor, k=k)
    if isinstance(by, Judgement):
        return by
    reference, tolerance = by
    broken = _unusable(scores, reference.tokens.shape)
    if broken:
        shape = (reference.steps, reference.rows)
        return Judgement("fail", tolerance.lane, "logits", broken, independent=reference.independent, shape=shape)
    errors = cell_errors(scores.projections, reference.projections)
    near = near_cells(reference, tie_margin(tolerance))
    got, want = scores.top_ids[..., 0], reference.tokens
    spread, against = reference.pooled_spread, reference.oracle
    return _verdict(errors, spread, got, want, reference.margins, tolerance, against, reference.independent, near)


def judge_same(
    a: Scores,
    b: Scores,
    *,
    dtype: str,
    reference_spread: float | None = None,
    envelope: RoundingEnvelope | None = None,
    factor: float = ENVELOPE_FACTOR,
    fp32_limit: float = FP32_LIMIT,
    k: float = MARGIN_SIGMAS,
    exact: bool = False,
    text: Reference | None = None,
    ties: Sequence[F64] | None = None,
    independent: bool | None = None,
) -> Judgement:
    """Judge whether two runs of one engine say the same, as a metamorphic property wants; no reference needed.

    `a` and `b` forced the same tokens (with and without cache, a row alone and in a batch, other padding, other
    TP degree). `reference_spread` in logit units defaults to that of `a`; without an `envelope` the assumed one of
    bf16 and fp16 is used, and said so. Long rows in fp32: pass `fp32_limit_at(positions)`. With `exact` the first
    "run" is the oracle's, which has no error of its own; `independent` says whether it is, of the engines. `text` is
    the reference of the very tokens, row by row and step by step, where there is one: it says where a router is near a
    tie, so that one run may take another expert. `ties`, (positions, layers) a row, says the same of rows
    without one: the routers' margins up to the last choice that is judged. Such rows are few, so that more than half of
    their cells left out is no verdict.
    """
    lane = precision_mode_of(dtype)
    for name, scores in (("first", a), ("second", b)):
        broken = _unusable(scores, a.projections.shape[:2])
        if broken:
            return Judgement("fail", lane, "logits", f"The {name} run: {broken}", shape=_shape(a))
    spread = _rms(a.projections) if reference_spread is None else reference_spread
    if not (math.isfinite(spread) and spread > 0 and _rms(a.projections) > 0):
        why = "All logits of a row are equal. Two runs that compute nothing always agree, so this is not a pass."
        return Judgement("fail", lane, "logits", why, shape=_shape(a))
    tolerance = between_runs(envelope, spread, len(a.top_ids), dtype, fp32_limit, factor, k, exact=exact)
    if tolerance is None:
        why = f"The reference has no envelope of {dtype}, so two runs in it cannot be compared."
        return Judgement("no_reference", lane, "logits", why, shape=_shape(a))
    errors = cell_errors(b.projections, a.projections)
    margins = np.maximum(*(x.top_logits[..., 0] - x.top_logits[..., 1] for x in (a, b)))
    near = None if text is None else near_cells(text, tie_margin(tolerance))
    if ties is not None:
        steps = len(a.top_ids)
        margin = tie_margin(tolerance)
        near = np.stack([near_ties(row, len(row) - steps, steps, margin) for row in ties], axis=1)
    return _verdict(
        errors,
        spread,
        b.top_ids[..., 0],
        a.top_ids[..., 0],
        margins,
        tolerance,
        oracle_words(independent=independent is not False) if exact else "the first run",
        independent,
        near,
        few=ties is not None,
        pair=ties is not None and not exact,
    )


def judge_bitwise(a: Scores, b: Scores, *, dtype: str, forced: bool = True) -> Judgement:
    """Judge whether two runs of one engine agree in every bit of every statistic (and of the logits, where kept).

    Without `forced` the logit of the forced token is left out: the runs were forced on other tokens.
    """
    lane = precision_mode_of(dtype)
    for name, scores in (("first", a), ("second", b)):
        broken = _unusable(scores, a.projections.shape[:2])
        if broken:
            return Judgement("fail", lane, "logits", f"The {name} run: {broken}", shape=_shape(a))
    names = ["projections", "top_ids", "top_logits", "logsumexp", *(["forced_logit"] if forced else [])]
    if a.logits is not None and b.logits is not None:
        names.append("logits")
    differs = np.logical_or.reduce([_bits_differ(getattr(a, name), getattr(b, name)) for name in names])
    cells = differs.size
    if not differs.any():
        text = f"Two runs agree in every bit of {', '.join(names)} over {cells} choices."
        return Judgement("pass", lane, "logits", text, judged=cells, total=cells, shape=_shape(a))
    step, row = (int(i) for i in np.argwhere(differs)[0])
    worst = np.unravel_index(int(cell_errors(a.projections, b.projections).argmax()), differs.shape)
    text = (
        f"Two runs differ in {int(differs.sum())} of {cells} choices, first at step {step} of prompt {row}: best logit "
        f"{float(a.top_logits[step, row, 0])!r} and {float(b.top_logits[step, row, 0])!r}. Bitwise equality was "
        "promised."
    )
    return Judgement(
        "fail",
        lane,
        "logits",
        text,
        worst=(int(worst[0]), int(worst[1])),
        judged=cells,
        total=cells,
        shape=_shape(a),
    )


def steps_of(scores: Scores, stop: int, *, first: int = 0) -> Scores:
    """The statistics of the steps from `first` until before `stop`."""
    part = slice(first, stop)
    return Scores(
        projections=scores.projections[part],
        top_ids=scores.top_ids[part],
        top_logits=scores.top_logits[part],
        logsumexp=scores.logsumexp[part],
        forced_logit=scores.forced_logit[part],
        finite=scores.finite[part],
        logits=None if scores.logits is None else scores.logits[part],
    )


def _verdict(
    errors: F64,
    spread: float,
    got: I64,
    want: I64,
    margins: F64,
    tolerance: Tolerance,
    against: str,
    independent: bool | None,
    near: NDArray[np.bool_] | None = None,
    *,
    few: bool = False,
    pair: bool = False,
) -> Judgement:
    """The rules, on errors, choices and margins of (steps, rows); `spread` in logit units.

    `near` cells may rest on a near tie of a router; those that took another expert are left out, and counted.
    With `few` rows more than half left out is no verdict, as of a single one. A `pair`: few, and of two runs.
    """
    flipped = got != want
    beyond = flipped & (margins > tolerance.bound)
    plainly = excused(errors, tolerance.sigma, beyond, near, tie_margin(tolerance))
    excuse = excused_of_few(errors, tolerance, plainly) if pair else plainly
    if excuse is not None and excuse.too_many and (few or errors.shape[1] == 1):
        text = f"{tolerance.lane} mode: {excuse.sentence} The remaining steps are too few for a verdict."
        return Judgement("no_reference", tolerance.lane, "logits", text, total=errors.size, independent=independent)
    counted = np.ones(errors.shape, dtype=np.bool_) if excuse is None or excuse.cells.all() else ~excuse.cells
    pooled = _rms(errors[counted]) / spread
    # The fp32 limit is a strict bound (< 1e-5), the envelope's an inclusive one, as docs/judge.md states them.
    too_far = not (pooled < tolerance.limit if tolerance.lane == "fp32" else pooled <= tolerance.limit)
    beyond &= counted
    far_cells = (errors > tolerance.bound) & counted
    severity = np.where(flipped, np.maximum(margins, errors), errors) / tolerance.bound * counted
    step, row = (int(i) for i in np.unravel_index(int(severity.argmax()), severity.shape))
    bound = float(tolerance.bound[step, 0])
    reasons = []
    if beyond.any():
        at = np.where(beyond, margins / tolerance.bound, 0.0)
        s, r = (int(i) for i in np.unravel_index(int(at.argmax()), at.shape))
        reasons.append(
            f"step {s} of prompt {r} chose {got[s, r]}, {against} {want[s, r]} by a margin of {margins[s, r]:.4g}, "
            f"where fault-free flips stay below {float(tolerance.bound[s, 0]):.4g} ({int(beyond.sum())} such flips)"
        )
    if too_far:
        reasons.append(f"nrms {pooled:.3g} exceeds {tolerance.limit:.3g} ({tolerance.words})")
    if far_cells.any():
        s, r = (int(i) for i in np.unravel_index(int((errors / tolerance.bound * counted).argmax()), errors.shape))
        reasons.append(
            f"the logits at step {s} of prompt {r} are off by {errors[s, r]:.4g} RMS, {tolerance.k:g} sigma are "
            f"{float(tolerance.bound[s, 0]):.4g} ({int(far_cells.sum())} such cells)"
        )
    if excuse is not None and excuse.too_many:
        reasons.append(f"more cells than the {MOST_EXCUSED:.0%} that fault-free runs stay below took another expert")
    cells = f"{errors.shape[0]} steps x {errors.shape[1]} prompts against {against}"
    routed = "" if excuse is None else f" {excuse.sentence}"
    if reasons:
        text = f"{tolerance.lane} mode, {cells}: {'; '.join(reasons)}.{routed}"
    else:
        text = (
            f"{tolerance.lane} mode, {cells}: nrms {pooled:.3g}, limit {tolerance.limit:.3g} ({tolerance.words}); "
            f"{int(flipped.sum())} flips, none beyond its margin; nearest to its bound: step {step} of prompt {row}, "
            f"{severity[step, row]:.2g} of {bound:.4g}.{routed}"
        )
    return Judgement(
        status="fail" if reasons else "pass",
        lane=tolerance.lane,
        tier="logits",
        explanation=text,
        nrms=pooled,
        limit=tolerance.limit,
        ratio=pooled / tolerance.unit,
        flips=int(flipped.sum()),
        flips_beyond_margin=int(beyond.sum()),
        worst=(step, row),
        judged=int(counted.sum()),
        total=errors.size,
        independent=independent,
        shape=(errors.shape[0], errors.shape[1]),
    )


def _shape(scores: Scores) -> tuple[int, int] | None:
    """Steps and rows of `scores`, which may be of any shape: they are the finding."""
    found = scores.projections.shape[:2]
    return (found[0], found[1]) if len(found) == 2 else None


def _unusable(scores: Scores, cells: tuple[int, ...]) -> str:
    """Why `scores` cannot be compared, or nothing. Asked first: every comparison with nan is False, and would pass."""
    shapes = {
        "projections": scores.projections.shape[:2],
        "top_ids": scores.top_ids.shape[:2],
        "top_logits": scores.top_logits.shape[:2],
        "logsumexp": scores.logsumexp.shape,
        "finite": scores.finite.shape,
    }
    wrong = [f"{name} {shape}" for name, shape in shapes.items() if shape != cells]
    if wrong or scores.projections.ndim != 3 or 0 in cells:
        asked = " x ".join(map(str, cells))
        return f"Scores of {asked} (steps x prompts) were wanted; the engine gave {', '.join(wrong)}."
    sound = scores.finite & np.isfinite(scores.projections).all(axis=-1) & np.isfinite(scores.top_logits).all(axis=-1)
    sound &= np.isfinite(scores.logsumexp)
    if sound.all():
        return ""
    step, row = (int(i) for i in np.argwhere(~sound)[0])
    return (
        f"Logits are not finite in {int((~sound).sum())} of {sound.size} choices, first at step {step} of prompt "
        f"{row}; every logit must be finite."
    )


def _bits_differ(a: NDArray[np.generic], b: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Cells (steps, rows) where the bytes of `a` and `b` differ; all of them when shapes or types do."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.ones(a.shape[:2], dtype=np.bool_)
    left, right = (np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape[:2], -1) for x in (a, b))
    return np.asarray((left != right).any(axis=-1), dtype=np.bool_)


def _rms(values: NDArray[np.floating]) -> float:
    wide = values.astype(np.float64)
    return float(np.sqrt((wide * wide).mean()))
