"""Judge what an engine wrote: two texts that should be one, a text that should have stopped. Pure: NumPy only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Final

import numpy as np

from genqual.conformance.judgement import (
    ENVELOPE_FACTOR,
    FP32_LIMIT,
    MARGIN_SIGMAS,
    Judgement,
    Tolerance,
    between_runs,
    precision_mode_of,
)
from genqual.conformance.judges.self_checks import claims
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.router_ties import near_ties, tie_margin
from genqual.conformance.tolerance import RoundingEnvelope
from genqual.engines.base import Scores

_NO_TEXT: Final = "\ue000"  # of private use: it is printed nowhere, so no stop string has it


def judge_same_text(
    a: I64,
    b: I64,
    scores: Callable[[], Scores],
    *,
    dtype: str,
    spread: float | None = None,
    envelope: RoundingEnvelope | None = None,
    ties: Callable[[], Sequence[F64] | None] = lambda: None,
) -> Judgement:
    """Judge whether two greedy runs, `a` and `b` (rows, steps of each), wrote one text as far as both go.

    `scores` gives those of `a`, forced on it, and is asked only where the runs differ. A row may part from the other
    only at a step where its own two best logits are as near as two fault-free runs may differ: 8 sigma of their
    difference. `spread` in logit units; by default that of `scores`. Or where a router is near a tie, so that one run
    may take another expert: `ties` gives the margins (positions, layers) of each row of `a` up to its last choice, and
    is asked only where rows part beyond that.
    """
    lane, steps = precision_mode_of(dtype), min(a.shape[1], b.shape[1])
    shape = (steps, a.shape[0])
    if a.shape[0] != b.shape[0]:
        text = f"Runs of {a.shape} and {b.shape} tokens (rows, steps): not comparable."
        return Judgement("fail", lane, "tokens", text, shape=shape)
    if np.array_equal(a[:, :steps], b[:, :steps]):
        return claims([], _agreed(a.shape[0], steps, 0), a.shape[0] * steps, dtype=dtype, tier="tokens", shape=shape)
    known = scores()
    if known.finite.shape[0] < steps or known.finite.shape[1] != a.shape[0]:
        text = f"Runs of {a.shape} tokens (rows, steps), scores of {known.finite.shape}: not comparable."
        return Judgement("fail", lane, "tokens", text, shape=shape)
    if spread is None:
        spread = float(np.sqrt((known.projections.astype(np.float64) ** 2).mean()))
    tolerance = between_runs(envelope, spread, steps, dtype, FP32_LIMIT, ENVELOPE_FACTOR, MARGIN_SIGMAS)
    if tolerance is None:
        text = f"The reference has no envelope of {dtype}, so the two runs cannot be compared."
        return Judgement("no_reference", lane, "tokens", text, shape=shape)
    margins = known.top_logits[..., 0] - known.top_logits[..., 1]
    judged, parted, problems = 0, 0, []
    for row, differs in enumerate(a[:, :steps] != b[:, :steps]):
        if not differs.any():
            judged += steps
            continue
        step = int(differs.argmax())
        judged, parted = judged + step + 1, parted + 1
        bound, margin = float(tolerance.bound[step, 0]), float(margins[step, row])
        if not known.finite[step, row] or (margin > bound and not _near(ties(), row, step, a.shape[1], tolerance)):
            problems.append(
                f"step {step} of prompt {row} is {a[row, step]} in one run and {b[row, step]} in the other, which its "
                f"logits tell apart by {margin:.4g} (fault-free runs part below {bound:.4g})"
            )
    whole = _agreed(a.shape[0], steps, parted)
    return claims(problems, whole, judged, dtype=dtype, tier="tokens", flips=parted, shape=shape)


def _agreed(rows: int, steps: int, parted: int) -> str:
    return f"{rows} texts of {steps} tokens agree; {parted} part where their margin allows"


def _near(ties: Sequence[F64] | None, row: int, step: int, steps: int, tolerance: Tolerance) -> bool:
    """Whether the choice at `step` of `row` may rest on a near tie of a router."""
    if ties is None:
        return False
    margins = ties[row]
    return bool(near_ties(margins, len(margins) - steps, steps, tie_margin(tolerance))[step])


def stopped(
    tokens: I64, *, eos: Sequence[int] = (), pad: int = 0, least: int = 0, ends: Sequence[int] | None = None
) -> I64:
    """What a run that stops must give, from one that does not: `tokens` (rows, steps) cut at each row's own end.

    A row ends with the first id of `eos` after `least` tokens, or after `ends[row]` tokens; it goes on with `pad`, and
    the run is as long as its longest row.
    """
    lasts = [tokens.shape[1]] * len(tokens) if ends is None else ends
    cuts = [min(_end(list(row), set(eos), least), last) for row, last in zip(tokens, lasts, strict=True)]
    out = np.full((len(tokens), max(cuts)), pad, dtype=np.int64)
    for row, end in enumerate(cuts):
        out[row, :end] = tokens[row, :end]
    return out


def _end(row: list[int], eos: set[int], least: int) -> int:
    for end in range(1, len(row) + 1):
        if row[end - 1] in eos and end > least:
            return end
    return len(row)


def stop_string(
    prompts: Sequence[Sequence[int]], tokens: I64, text: Callable[[Sequence[int]], str]
) -> tuple[str, list[int]] | None:
    """A string to stop at, and after how many of its `tokens` (rows, steps) each row's text first has it.

    It is the text of two tokens of a row, or of one, that each read as whole characters: engines differ in what they
    make of a part of one. Other tokens may spell it too, so the ends come from the text. Engines also differ in whether
    a string may begin in the prompt, so one that does is not taken. An id that the tokenizer does not know has no text:
    what `text` shows of it (`<421>`) is ours, and an engine finds no string there. None where no token reads as whole
    characters.
    """
    text = _without_bare_ids(text)
    for length in (2, 1):
        places = [(row, step) for row in range(len(tokens)) for step in range(2, tokens.shape[1] - length)]
        for row, step in places:  # before the last token, or a row that does not stop would end there as well
            part = [int(token) for token in tokens[row, step : step + length]]
            string = text(part)
            if not all(_whole(text([token])) for token in part) or not _whole(string):
                continue
            ends = [_text_end([], list(new), string, text) for new in tokens]
            if ends == [
                _text_end(list(old), list(new), string, text) for old, new in zip(prompts, tokens, strict=True)
            ]:
                return string, ends
    return None


def _without_bare_ids(text: Callable[[Sequence[int]], str]) -> Callable[[Sequence[int]], str]:
    """`text` with a character that is in no stop string in place of each id that it shows as a bare one."""

    @cache
    def is_bare(token: int) -> bool:
        return text([token]) == f"<{token}>"

    def read(ids: Sequence[int]) -> str:
        runs = groupby(map(int, ids), is_bare)
        return "".join("".join(_NO_TEXT for _ in run) if bare else text(list(run)) for bare, run in runs)

    return read


def _whole(text: str) -> bool:
    """Whether it is text that any tokenizer keeps: no space at its ends, no part of a character, no bare id."""
    return text != "" and text == text.strip() and text.isprintable() and "\ufffd" not in text


def _text_end(before: list[int], row: list[int], string: str, text: Callable[[Sequence[int]], str]) -> int:
    """After how many tokens of `row`, which goes on from `before`, its text has `string` once more."""

    def times(count: int) -> int:
        return len(re.findall(f"(?={re.escape(string)})", text([*before, *row[:count]])))

    return next((count for count in range(1, len(row) + 1) if times(count) > times(count - 1)), len(row))


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
