"""Judge a run by itself: what holds of any model, with no oracle and no second run. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genqual.conformance.judgement import Judgement, precision_mode_of
from genqual.conformance.oracle.core import F64, I64
from genqual.engines.base import Scores


def judge_finite(scores: Scores, *, dtype: str) -> Judgement:
    """Judge whether every logit of every row and step is finite, those of padded rows included."""
    cells, shape = scores.finite.size, (scores.finite.shape[0], scores.finite.shape[1])
    sound = scores.finite & np.isfinite(scores.projections).all(axis=-1) & np.isfinite(scores.logsumexp)
    bad = np.argwhere(~sound)
    if not len(bad):
        return _own("pass", dtype, f"All logits are finite at {cells} choices.", cells, shape=shape)
    step, row = (int(i) for i in bad[0])
    text = f"Logits are not finite in {len(bad)} of {cells} choices, first at step {step} of prompt {row}."
    return _own("fail", dtype, text, cells, worst=(step, row), shape=shape)


def judge_choice(tokens: I64, scores: Scores, *, dtype: str) -> Judgement:
    """Judge whether each of `tokens` (rows, steps) has the highest logit of `scores`, forced on these very tokens.

    Equal logits are equal choices: a dtype of eight bits ties often, and which of two equals wins is nobody's fault.
    """
    chosen = np.asarray(tokens.T)
    shape = (chosen.shape[0], chosen.shape[1])
    if chosen.shape != scores.finite.shape:
        text = f"{chosen.shape} tokens (steps x prompts) were chosen, {scores.finite.shape} were scored."
        return _own("fail", dtype, text, chosen.size, tier="tokens", shape=shape)
    best = scores.top_logits[..., 0]
    # "not >=", because every comparison with nan is False.
    wrong = ~scores.finite | ~(scores.forced_logit >= best)
    if not wrong.any():
        text = f"Each of {chosen.size} tokens has the highest logit."
        return _own("pass", dtype, text, chosen.size, tier="tokens", shape=shape)
    step, row = (int(i) for i in np.argwhere(wrong)[0])
    text = (
        f"Step {step} of prompt {row} chose {chosen[step, row]}, but its own logits favour "
        f"{scores.top_ids[step, row, 0]} by {best[step, row] - scores.forced_logit[step, row]:.4g} "
        f"({int(wrong.sum())} of {chosen.size} choices)."
    )
    flips = int(wrong.sum())
    return _own("fail", dtype, text, chosen.size, tier="tokens", worst=(step, row), flips=flips, shape=shape)


def judge_agreement(tokens: Sequence[I64], *, dtype: str) -> Judgement:
    """Judge whether all ranks chose the same `tokens` (rows, steps), one array a rank; at least two ranks."""
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} rank cannot disagree; this property needs two")
    rows, steps = tokens[0].shape
    shape = (steps, rows)
    for rank, other in enumerate(tokens[1:], start=1):
        if other.shape != tokens[0].shape:
            text = f"Rank {rank} gave tokens {other.shape} (rows, steps), rank 0 {tokens[0].shape}."
            return _own("fail", dtype, text, tokens[0].size, tier="tokens", shape=shape)
        differs = np.argwhere(other != tokens[0])
        if len(differs):
            row, step = (int(i) for i in differs[0])
            text = (
                f"Rank {rank} chose {other[row, step]} at step {step} of prompt {row}, rank 0 chose "
                f"{tokens[0][row, step]}: the ranks went on with different texts."
            )
            flips = len(differs)
            return _own("fail", dtype, text, other.size, tier="tokens", worst=(step, row), flips=flips, shape=shape)
    text = f"{len(tokens)} ranks agree on {tokens[0].size} tokens."
    return _own("pass", dtype, text, tokens[0].size, tier="tokens", shape=shape)


def judge_unmutated(loaded: Sequence[str], now: Sequence[str], *, dtype: str) -> Judgement:
    """Judge whether the weight hashes by rank are those that loading gave."""
    changed = [rank for rank, (a, b) in enumerate(zip(loaded, now, strict=True)) if a != b]
    if changed:
        text = (
            f"The weights of rank {', '.join(map(str, changed))} are not those that were loaded: a run wrote to them."
        )
        return _own("fail", dtype, text, len(now), tier="weights")
    return _own("pass", dtype, f"The weights of {len(now)} rank(s) are as they were loaded.", len(now), tier="weights")


def judge_first(answers: Sequence[tuple[F64, F64]], *, dtype: str) -> Judgement:
    """Judge whether the first pass of each rank's process and the same pass later agree to the bit.

    `answers` are pairs of logits (rows, vocabulary), one a rank. Loading makes the first pass and shows nobody what it
    said, so that a fault that lives in it alone would be seen by no request.
    """
    problems = []
    for rank, (first, again) in enumerate(answers):
        if first.shape == again.shape and np.array_equal(first, again) and np.isfinite(first).all():
            continue
        differs = float(np.abs(first - again).max()) if first.shape == again.shape else float("nan")
        problems.append(
            f"the first pass of rank {rank}'s process, which loading ends with, and the same pass later differ by up "
            f"to {differs:.3g}, or are not finite: what runs first there is wrong"
        )
    cells = sum(first.size for first, _ in answers)
    return claims(problems, f"The first pass of {len(answers)} process(es) is that of later ones", cells, dtype=dtype)


def judge_inputs(written: Sequence[Sequence[str]], *, dtype: str) -> Judgement:
    """Judge whether no rank wrote to what it was given; `written` names what it did write to, by rank."""
    problems = [f"rank {rank} wrote to its {' and '.join(names)}" for rank, names in enumerate(written) if names]
    return claims(
        problems, f"{len(written)} rank(s) left their inputs alone", len(written), dtype=dtype, tier="weights"
    )


def claims(
    problems: Sequence[str],
    whole: str,
    cells: int,
    *,
    dtype: str,
    tier: str = "logits",
    flips: int = 0,
    shape: tuple[int, int] | None = None,
) -> Judgement:
    """A judgement from a list of `problems`: the first is told, the others counted; none, and `whole` is.

    `shape` is (steps, rows) of what was judged, where it has both.
    """
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return _own(
            "fail", dtype, f"{problems[0]}{more}.", cells, tier=tier, flips=max(flips, len(problems)), shape=shape
        )
    return _own("pass", dtype, f"{whole}.", cells, tier=tier, shape=shape)


def _own(
    status: str,
    dtype: str,
    text: str,
    cells: int,
    *,
    tier: str = "logits",
    worst: tuple[int, int] | None = None,
    flips: int = 0,
    shape: tuple[int, int] | None = None,
) -> Judgement:
    return Judgement(
        status,  # type: ignore[arg-type]
        precision_mode_of(dtype),
        tier,  # type: ignore[arg-type]
        text,
        flips=flips,
        flips_beyond_margin=flips,
        worst=worst,
        judged=cells,
        total=cells,
        shape=shape,
    )


def judge_whole(problems: Sequence[str], count: int, *, dtype: str, steps: int | None = None) -> Judgement:
    """Judge whether a data set was generated from completely: no problem, and at least one pair.

    `steps` are the new tokens of each of the `count` pairs.
    """
    found = list(problems) if count else ["no prompt at all", *problems]
    shape = (steps, count) if steps and count else None
    if found:
        more = f" (and {len(found) - 1} more problems)" if len(found) > 1 else ""
        text = f"The pairs are not those of the data set: {found[0]}{more}."
        return _own("fail", dtype, text, count, tier="tokens", shape=shape)
    return _own("pass", dtype, f"{count} prompts, each with its pair, in order.", count, tier="tokens", shape=shape)


def rows_of(scores: Scores, rows: Sequence[int]) -> Scores:
    """The statistics of some rows, in that order."""
    chosen = list(rows)
    return Scores(
        projections=scores.projections[:, chosen],
        top_ids=scores.top_ids[:, chosen],
        top_logits=scores.top_logits[:, chosen],
        logsumexp=scores.logsumexp[:, chosen],
        forced_logit=scores.forced_logit[:, chosen],
        finite=scores.finite[:, chosen],
        logits=None if scores.logits is None else scores.logits[:, chosen],
    )
