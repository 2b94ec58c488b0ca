"""Judge the best log-probabilities of a free greedy run: the tier between tokens and whole logits. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.judgement import (
    ENVELOPE_FACTOR,
    FP32_LIMIT,
    MARGIN_SIGMAS,
    Judgement,
    Tolerance,
    judged_by,
)
from genqual.conformance.judges.free_run import Rescore, margins_by
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.references.data import Reference
from genqual.conformance.router_ties import MOST_EXCUSED, OTHER_SIGMAS, Excused, near_cells, tie_margin
from genqual.errors import BadInput

ROUNDING: Final = 3 * 2.0**-24
"""What fp32 may do to a log-probability on its way to us, in parts of its size.

With l the logit and m the largest one, a stable log-softmax takes (l - m) - log(sum of exp(l - m)). Both parts pull the
same way, so their sizes add up to that of the result: rounding each of them moves it by 2^-24 of its size at most,
rounding the difference by as much, and the shortest decimal form of a float32, read as a double, by as much again. What
exp and the sum do to the parts is computing, not transport: it has to fit into the precision mode's limit.
"""


def judge_top(
    tokens: I64,
    ids: I64,
    logprobs: F64,
    reference: Reference | None,
    *,
    dtype: str,
    rescore: Rescore,
    known: F64 | None = None,
    fp32_limit: float = FP32_LIMIT,
    factor: float = ENVELOPE_FACTOR,
    k: float = MARGIN_SIGMAS,
) -> Judgement:
    """Judge `tokens` (rows, steps), generated from the reference's prompts, by what the engine says of its best tokens.

    `ids` and natural `logprobs` (steps, rows, best), at least two distinct ids each, in any order. The oracle scores
    the run's own prefixes by `rescore`; rows that are the reference's are looked up in its `known` logits (steps,
    rows, vocabulary), where given. Never raises on a bad run: that is the finding. Without a reference, an envelope of
    `dtype` or an oracle the status is "no_reference". Cells that took another expert at a near tie of a router are left
    out and counted; a `rescore` that is `ByOracle` says where ties are on a row's own text, else they may be anywhere.

    A log-probability is a logit less the logsumexp, so its error is the logit's error e_i less the mean error weighted
    by the probabilities p, where the centred logit error takes the plain mean off. With errors of variance s^2 that
    are independent of each other it has the variance s^2 (1 - 2 p_i + sum of p_j^2): s^2 where the distribution is
    flat, up to 2 s^2 beside a token that is almost certain, 0 for that token. The oracle knows p, so the precision
    mode's limit on nrms and its sigma, which are of s, hold once they are multiplied by the root mean square of this
    gain.
    """
    by = judged_by(reference, dtype, "top", fp32_limit=fp32_limit, factor=factor, k=k)
    if isinstance(by, Judgement):
        return by
    reference, tolerance = by
    lane, shape = tolerance.lane, (reference.steps, reference.rows)
    broken = _unusable(tokens, ids, logprobs, reference)
    if broken:
        return Judgement("fail", lane, "top", broken, independent=reference.independent, shape=shape)
    try:
        exact = exact_logprobs(tokens, reference, rescore, known)
    except BadInput as reason:
        return Judgement("no_reference", lane, "top", str(reason), independent=reference.independent, shape=shape)
    if not np.isfinite(exact).all():
        text = "The oracle's own log-probabilities on this text are not finite, so nothing is as it should be."
        return Judgement("fail", lane, "top", text, independent=reference.independent, shape=shape)
    near = near_cells(reference, tie_margin(tolerance), tokens, margins_by(rescore))
    return _verdict(tokens, ids, logprobs, exact, reference, tolerance, near)


def exact_logprobs(tokens: I64, reference: Reference, rescore: Rescore, known: F64 | None = None) -> F64:
    """The oracle's log-probabilities (steps, rows, vocabulary) before each of `tokens` (rows, steps), on that text.

    Raises BadInput where there is no oracle.
    """
    rows = []
    for row, prompt in enumerate(reference.prompts):
        if known is not None and (tokens[row] == reference.forced[row]).all():
            rows.append(known[:, row])
        else:
            rows.append(rescore([*prompt, *(int(t) for t in tokens[row, :-1])])[len(prompt) - 1 :])
    logits = np.stack(rows, axis=1)
    below = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(below - np.log(np.exp(below).sum(axis=-1, keepdims=True)))


def _verdict(
    tokens: I64,
    ids: I64,
    logprobs: F64,
    exact: F64,
    reference: Reference,
    tolerance: Tolerance,
    near: NDArray[np.bool_] | None,
) -> Judgement:
    """The rules; `exact` is the oracle's word (steps, rows, vocabulary) on what the engine read."""
    said = np.take_along_axis(exact, ids, axis=-1)
    chances = np.exp(exact)
    gains = 1.0 - 2.0 * np.exp(said) + (chances * chances).sum(axis=-1, keepdims=True)  # variances, see judge_top
    rounding = ROUNDING * np.abs(said)
    spread, bound = reference.pooled_spread, np.broadcast_to(tolerance.bound, ids.shape[:2])

    errors = _rms(logprobs - said)
    allowed = bound * np.sqrt(gains.mean(axis=-1)) + _rms(rounding)
    gain = float(np.sqrt(gains.mean()))
    gaps = exact.max(axis=-1) - np.take_along_axis(exact, tokens.T[..., None], axis=-1)[..., 0]
    left_out = _unlisted(exact, ids).max(axis=-1) - said.min(axis=-1)
    # Where a whole cell is off, within its own limit, so is what it leaves out; docs/judge.md has the measurement.
    leeway = np.maximum(bound, tolerance.k * errors)
    excuse, counted = None, np.ones(errors.shape, dtype=np.bool_)
    if near is not None:
        off = (errors > allowed * OTHER_SIGMAS / tolerance.k) | (gaps > bound) | (left_out > leeway)
        excuse = Excused(near & off, near, tie_margin(tolerance))
        counted = counted if excuse.cells.all() else ~excuse.cells
        errors, gaps, left_out = (np.where(counted, values, 0.0) for values in (errors, gaps, left_out))
    pooled = float(_rms((logprobs - said)[counted].reshape(-1))) / spread
    limit = tolerance.limit * gain + float(_rms(rounding.reshape(-1))) / spread
    too_far = not (pooled < limit if tolerance.lane == "fp32" else pooled <= limit)

    severity = np.maximum(errors / allowed, np.maximum(gaps / bound, left_out / leeway))
    step, row = _worst(severity)
    rules = {"gaps": gaps, "bound": bound, "left_out": left_out, "leeway": leeway}
    reasons = _choices(tokens, ids, logprobs, exact, rules)
    if excuse is not None and excuse.too_many:
        reasons.append(f"more cells than the {MOST_EXCUSED:.0%} that fault-free runs stay below took another expert")
    if too_far:
        reasons.append(f"nrms of the log-probabilities {pooled:.3g} exceeds {limit:.3g} ({tolerance.words})")
    if (errors > allowed).any():
        s, r = _worst(errors / allowed)
        reasons.append(
            f"the log-probabilities at step {s} of prompt {r} are off by {errors[s, r]:.4g} RMS, allowed are "
            f"{allowed[s, r]:.4g} ({tolerance.k:g} sigma; {int((errors > allowed).sum())} such cells)"
        )
    against = reference.oracle
    cells = f"{len(ids)} steps x {ids.shape[1]} prompts, the best {ids.shape[-1]} of each, against {against}"
    routed = "" if excuse is None else f" {excuse.sentence}"
    if reasons:
        text = f"{tolerance.lane} mode, {cells}: {'; '.join(reasons)}.{routed}"
    else:
        text = (
            f"{tolerance.lane} mode, {cells}: nrms {pooled:.3g}, limit {limit:.3g} ({tolerance.words}, x {gain:.3g} "
            f"for log-probabilities, fp32 on the way included); nearest to its bound: step {step} of prompt {row}, "
            f"{severity[step, row]:.2g} of it.{routed}"
        )
    return Judgement(
        status="fail" if reasons else "pass",
        lane=tolerance.lane,
        tier="top",
        explanation=text,
        nrms=pooled,
        limit=limit,
        ratio=pooled / (tolerance.unit * gain),
        flips=int((gaps > 0).sum()),
        flips_beyond_margin=int((gaps > bound).sum()),
        worst=(step, row),
        judged=int(counted.sum()),
        total=errors.size,
        independent=reference.independent,
        shape=(reference.steps, reference.rows),
    )


def _choices(tokens: I64, ids: I64, logprobs: F64, exact: F64, rules: Mapping[str, F64]) -> list[str]:
    """What is wrong with what was chosen and listed; `rules` are the arrays (steps, rows) of `_verdict`."""
    gaps, bound, left_out, leeway = (rules[name] for name in ("gaps", "bound", "left_out", "leeway"))
    own = np.where(ids == tokens.T[..., None], logprobs, -np.inf).max(axis=-1)
    other, reasons = own < logprobs.max(axis=-1), []
    if other.any():
        s, r = (int(i) for i in np.argwhere(other)[0])
        best = ids[s, r, int(logprobs[s, r].argmax())]
        reasons.append(
            f"step {s} of prompt {r} chose {tokens[r, s]}, but its own log-probabilities favour {best} "
            f"({int(other.sum())} such choices)"
        )
    if (gaps > bound).any():
        s, r = _worst(gaps / bound)
        reasons.append(
            f"step {s} of prompt {r} chose {tokens[r, s]}, the oracle, given the same prefix, {exact[s, r].argmax()} "
            f"by {gaps[s, r]:.4g} (allowed: {bound[s, r]:.4g}; {int((gaps > bound).sum())} such choices)"
        )
    if (left_out > leeway).any():
        s, r = _worst(left_out / leeway)
        reasons.append(
            f"at step {s} of prompt {r} {_unlisted(exact, ids)[s, r].argmax()} is not among the best "
            f"{ids.shape[-1]}, where the oracle "
            f"puts it {left_out[s, r]:.4g} before one that is (allowed: {leeway[s, r]:.4g}; "
            f"{int((left_out > leeway).sum())} such lists)"
        )
    return reasons


def _unlisted(exact: F64, ids: I64) -> F64:
    """`exact` without the tokens that are listed."""
    rest = exact.copy()
    np.put_along_axis(rest, ids, -np.inf, axis=-1)
    return rest


def _unusable(tokens: I64, ids: I64, logprobs: F64, reference: Reference) -> str:
    """Why a run cannot be compared, or nothing. Asked first: every comparison with nan is False, and would pass."""
    cells, vocabulary = (reference.steps, reference.rows), reference.vocabulary
    if tokens.shape != cells[::-1] or ids.shape != logprobs.shape or ids.shape[:2] != cells or ids.ndim != 3:
        return (
            f"Tokens {tokens.shape}, ids {ids.shape} and log-probabilities {logprobs.shape} were given; {cells[::-1]} "
            f"(prompts, steps) and twice {(*cells, 'best')} (steps, prompts, best) were wanted."
        )
    if ids.shape[2] < 2:
        return f"{ids.shape[2]} log-probabilities a token were given; at least 2 are needed."
    if min(tokens.min(), ids.min()) < 0 or max(tokens.max(), ids.max()) >= vocabulary:
        return f"Tokens or ids are no tokens of the model: wanted are ids below {vocabulary}."
    sound = np.isfinite(logprobs).all(axis=-1)
    if not sound.all():
        step, row = (int(i) for i in np.argwhere(~sound)[0])
        return (
            f"Log-probabilities are not finite in {int((~sound).sum())} of {sound.size} choices, first at step {step} "
            f"of prompt {row}; every one of the best must be finite."
        )
    twice = (np.diff(np.sort(ids, axis=-1), axis=-1) == 0).any(axis=-1)
    if twice.any():
        step, row = (int(i) for i in np.argwhere(twice)[0])
        return f"An id stands twice among the best at step {step} of prompt {row} ({int(twice.sum())} such lists)."
    return ""


def _worst(values: F64) -> tuple[int, int]:
    step, row = np.unravel_index(int(values.argmax()), values.shape)
    return int(step), int(row)


def _rms(values: NDArray[Any]) -> F64:
    return np.asarray(np.sqrt((values * values).mean(axis=-1)), dtype=np.float64)
