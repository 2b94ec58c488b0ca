"""Near ties of routers: where a right engine may take another expert than the oracle. Pure: NumPy only.

A router picks the experts with the highest scores. Where two scores are closer than the rounding of a dtype, which one
wins is a matter of rounding, and the logits after it differ by more than any rounding: both are right. The rule and
what it was measured on: docs/judge.md, "Routers".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.judgement import Tolerance
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.references.data import Reference
from genqual.conformance.tolerance import Excuse

TIE_SIGMAS: Final = 3.0
"""Fault-free runs take another expert at margins of up to 1.8 times their nrms (551 such tokens of seven models)."""

OTHER_SIGMAS: Final = 3.0
"""A cell near a tie that is off by more has taken the other expert. Without one, right cells stay below 2.3 sigma."""

MOST_EXCUSED: Final = 0.5
"""Of all cells; fault-free runs had at most 0.37 in 8 rows. With more, what is judged says too little of the whole."""

Bools = NDArray[np.bool_]
MarginsOf = Callable[[Sequence[int]], F64 | None]
"""`CausalOracle.router_margins`: ids (tokens,) to margins (tokens, layers), None for a model without routers."""


@dataclass(frozen=True, slots=True)
class Excused:
    """Which cells (steps, rows) are excused, of those that are near a tie; `margin` is what counts as near."""

    cells: Bools
    near: Bools
    margin: float

    @property
    def too_many(self) -> bool:
        """More than half of the cells: the rest is too little to judge by."""
        return bool(self.cells.mean() > MOST_EXCUSED)

    @property
    def sentence(self) -> str:
        """For the explanation."""
        return (
            f"{int(self.cells.sum())} of {self.cells.size} cells took another expert at a near tie of a router (margin "
            f"at most {self.margin:.3g}), or follow one that did, and are not judged; {int(self.near.sum())} are near "
            f"one."
        )


def tie_margin(tolerance: Tolerance) -> float:
    """Up to which relative margin of a router rounding may decide.

    The fp32 limit is five times what fault-free fp32 reads, so it needs no further factor.
    """
    return tolerance.limit if tolerance.lane == "fp32" else TIE_SIGMAS * tolerance.unit


def near_ties(margins: F64 | NDArray[np.float32], first: int, steps: int, margin: float) -> Bools:
    """Whether each of `steps` choices of one row, from position `first` on, may rest on a near tie.

    `margins` (positions, layers) are relative.
    A tie at a token reaches its own choice and, through attention or state, every later one of its row; a tie in the
    last layer reaches its own alone, as nothing looks back after it.
    """
    whole = np.asarray(margins)[: first + steps]
    own = whole.min(axis=1) <= margin
    lasting = whole[:, :-1].min(axis=1, initial=np.inf) <= margin
    before = np.concatenate([[False], np.logical_or.accumulate(lasting)[:-1]])
    return np.asarray((own | before)[first:], dtype=np.bool_)


def near_cells(
    reference: Reference, margin: float, tokens: I64 | None = None, margins_of: MarginsOf | None = None
) -> Bools | None:
    """Which cells (steps, rows) of `reference` are near a tie; None where it knows no routers' margins.

    With `tokens` (rows, steps) it is about another text: where a row has left the reference's, `margins_of` says the
    margins, and without it every cell behind the parting counts as near: nobody knows better.
    """
    if reference.router_margins is None:
        return None
    near = np.zeros((reference.steps, reference.rows), dtype=np.bool_)
    for row, prompt in enumerate(reference.prompts):
        margins: F64 | NDArray[np.float32] = reference.router_margins[row]
        parted = reference.steps
        if tokens is not None and (tokens[row] != reference.tokens[:, row]).any():
            own = margins_of([*prompt, *(int(t) for t in tokens[row, :-1])]) if margins_of else None
            margins = margins if own is None else own
            parted = int((tokens[row] != reference.tokens[:, row]).argmax()) + 1 if own is None else parted
        near[:, row] = near_ties(margins, len(prompt) - 1, reference.steps, margin)
        near[parted:, row] = True
    return near


def excused(errors: F64, sigma: F64, beyond: Bools, near: Bools | None, margin: float) -> Excused | None:
    """Which cells took another expert: near a tie, and off by more than rounding, or `beyond` the margin of a choice.

    `errors` (steps, rows) and `sigma` (steps,) in logit units. None where no routers are known.
    """
    return None if near is None else Excused(near & ((errors > OTHER_SIGMAS * sigma[:, None]) | beyond), near, margin)


def excused_of_few(errors: F64, tolerance: Tolerance, found: Excused | None) -> Excused | None:
    """`found`, of a few cells of two runs; where those left exceed the limit, near ones that are off by more, too.

    Among so few, one that took another expert and is off by less than 3 sigma takes the pooled number over the limit.
    """
    most, off = tolerance.limit / tolerance.unit, errors / tolerance.sigma[:, None]
    if found is None or found.too_many or np.sqrt(np.mean(off[~found.cells] ** 2)) <= most:
        return found
    return Excused(found.cells | (found.near & (off > most)), found.near, found.margin)


def excuse_of(reference: Reference) -> Excuse | None:
    """What `envelope.measure` leaves out of fault-free runs of `reference`; None where no routers are known."""
    if reference.router_margins is None:
        return None

    def excuse(errors: F64, nrms: float) -> Bools:
        near, sigma = near_cells(reference, TIE_SIGMAS * nrms), np.full(len(errors), nrms * reference.pooled_spread)
        found = excused(errors, sigma, np.zeros(errors.shape, dtype=np.bool_), near, TIE_SIGMAS * nrms)
        return np.zeros(errors.shape, dtype=np.bool_) if found is None else found.cells

    return excuse
