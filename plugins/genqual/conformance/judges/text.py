"""Judge what an engine wrote: two texts that should be one, a text that should have stopped. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genqual.conformance.judgement import (
    ENVELOPE_FACTOR,
    FP32_LIMIT,
    MARGIN_SIGMAS,
    Judgement,
    between_runs,
    lane_of,
)
from genqual.conformance.judges.self_checks import claims
from genqual.conformance.oracle.core import I64
from genqual.conformance.tolerance import Envelope
from genqual.engines.base import Scores


def judge_same_text(
    a: I64, b: I64, scores: Scores, *, dtype: str, spread: float | None = None, envelope: Envelope | None = None
) -> Judgement:
    """Judge whether two greedy runs, `a` and `b` (rows, steps of each), wrote one text as far as both go.

    `scores` are of `a`, forced on it. A row may part from the other only at a step where its own two best logits are
    as near as two fault-free runs may differ: 8 sigma of their difference. `spread` in logit units; by default that of
    `scores`.
    """
    lane, steps = lane_of(dtype), min(a.shape[1], b.shape[1])
    shape = (steps, a.shape[0])
    if a.shape[0] != b.shape[0] or scores.finite.shape[0] < steps or scores.finite.shape[1] != a.shape[0]:
        text = f"Runs of {a.shape} and {b.shape} tokens (rows, steps), scores of {scores.finite.shape}: not comparable."
        return Judgement("fail", lane, "tokens", text, shape=shape)
    if spread is None:
        spread = float(np.sqrt((scores.projections.astype(np.float64) ** 2).mean()))
    tolerance = between_runs(envelope, spread, steps, dtype, FP32_LIMIT, ENVELOPE_FACTOR, MARGIN_SIGMAS)
    if tolerance is None:
        text = f"Nothing is known of what honest {dtype} reads."
        return Judgement("no_reference", lane, "tokens", text, shape=shape)
    margins = scores.top_logits[..., 0] - scores.top_logits[..., 1]
    judged, parted, problems = 0, 0, []
    for row, differs in enumerate(a[:, :steps] != b[:, :steps]):
        if not differs.any():
            judged += steps
            continue
        step = int(differs.argmax())
        judged, parted = judged + step + 1, parted + 1
        bound, margin = float(tolerance.bound[step, 0]), float(margins[step, row])
        if not (scores.finite[step, row] and margin <= bound):
            problems.append(
                f"step {step} of prompt {row} is {a[row, step]} in one run and {b[row, step]} in the other, which its "
                f"logits tell apart by {margin:.4g} (fault-free runs part below {bound:.4g})"
            )
    whole = f"{a.shape[0]} texts of {steps} tokens agree; {parted} part where their margin allows"
    return claims(problems, whole, judged, dtype=dtype, tier="tokens", flips=parted, shape=shape)


def stopped(
    tokens: I64, *, eos: Sequence[int] = (), pad: int = 0, least: int = 0, endings: Sequence[Sequence[int]] = ()
) -> I64:
    """What a run that stops must give, from one that does not: `tokens` (rows, steps) cut at each row's own end.

    A row ends with the first id of `eos` after `least` tokens, or with the last of a sequence of `endings`; it goes on
    with `pad`, and the run is as long as its longest row.
    """
    ends = [_end(list(row), set(eos), least, [list(one) for one in endings]) for row in tokens]
    out = np.full((len(tokens), max(ends)), pad, dtype=np.int64)
    for row, end in enumerate(ends):
        out[row, :end] = tokens[row, :end]
    return out


def _end(row: list[int], eos: set[int], least: int, endings: list[list[int]]) -> int:
    for end in range(1, len(row) + 1):
        if (row[end - 1] in eos and end > least) or any(row[max(0, end - len(one)) : end] == one for one in endings):
            return end
    return len(row)


def judge_stopped(got: Sequence[I64], want: I64, *, dtype: str, what: str) -> Judgement:
    """Judge whether the runs `got` of all ranks stopped, row by row, where `want` does; `what` asked them to."""
    problems = []
    for rank, one in enumerate(got):
        if one.shape != want.shape:
            problems.append(f"rank {rank} gave {one.shape[1]} tokens a row, {want.shape[1]} were due")
            continue
        differs = np.argwhere(one != want)
        if len(differs):
            row, step = (int(i) for i in differs[0])
            problems.append(
                f"rank {rank} gave {one[row, step]} at step {step} of prompt {row}, {want[row, step]} was due"
            )
    rows, steps = want.shape
    said = f"{what}: {rows} rows stop where they should"
    named = [f"{what}: {one}" for one in problems]
    return claims(named, said, want.size, dtype=dtype, tier="tokens", shape=(steps, rows))
