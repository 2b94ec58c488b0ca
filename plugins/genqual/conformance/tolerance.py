"""The error of a fault-free run of a dtype, measured on emulations, never on the device under test. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64
from genqual.engines.base import Scores
from genqual.errors import BadInput

# nrms in units of the dtype's rounding (2^-9, 2^-12) read 6 to 13 on fault-free llama, bloom and SmolLM2, 3 to 30
# layers.
ASSUMED_NRMS: Final[Mapping[str, float]] = {"bf16": 16 * 2.0**-9, "fp16": 16 * 2.0**-12}

# Fault-free runs of one scheme read within 1.12 of each other; further apart, one of them is not honest.
AGREEMENT: Final = 1.25

# Of a mixture of experts, where a token that took another expert moves what follows by less than shows: fault-free runs
# of four (baselines/references) read 1.00 to 1.15, of a small GLM-4 MoE 1.32 (8 prompts, 32 steps) and 1.41 (12).
AGREEMENT_OF_EXPERTS: Final = 1.5

# The worst (step, row) of a fault-free run reads up to 3 times the median. A bad one must be found here: among 40 rows
# it raises sigma so far that 8 sigma would excuse it.
OUTLIER: Final = 8.0

# Of a tolerance, in unit roundings of its dtype (half the step below one); right bf16 and fp16 read 6 to 15, a mixture
# of experts with clamped activations 34, which its emulation explains. An int8 step is 1/127 of a row's largest number,
# and numbers of rows are a quarter of that: right runs read 6 to 16.
MOST_ROUNDINGS: Final = 32
UNITS: Final[Mapping[str, float]] = {"bf16": 2.0**-9, "fp16": 2.0**-12, "fp8": 2.0**-4}
INT8_UNIT: Final = 2.0**-7

# Right runs read 0.7 to 1.3 of what an emulation of their precision reads (docs/models.md, "Tolerances").
MOST_OF_EMULATION: Final = 2.0

Excuse = Callable[[F64, float], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class RoundingEnvelope:
    """The error that fault-free runs of one scheme show against the oracle.

    `nrms` pooled, the largest of the runs; `sigma` (steps,) logit units: RMS error at the step over rows and
    vocabulary, the largest of the runs; `errors` (runs, steps, rows) logit units: what both are made of, nan where a
    run took another expert at a near tie of a router; `honest_runs` says what was run, one name with its software
    versions a run.
    """

    nrms: float
    sigma: F64
    errors: F64
    fault_free_runs: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.errors.ndim != 3 or self.errors.shape[:2] != (len(self.fault_free_runs), len(self.sigma)):
            raise ValueError(
                f"errors {self.errors.shape} is not (runs, steps, rows): {len(self.fault_free_runs)} runs, "
                f"{len(self.sigma)} steps"
            )
        if not (np.isfinite(self.nrms) and self.nrms > 0 and np.isfinite(self.sigma).all() and (self.sigma > 0).all()):
            raise ValueError(f"an envelope is finite and above zero; nrms {self.nrms}, sigma {self.sigma}")

    def select(self, spread: F64, rows: slice | list[int], steps: int) -> RoundingEnvelope:
        """Of some rows and the first `steps`; `spread` (steps, rows) is the oracle's, already selected.

        nrms is that of the selection (single rows read 0.7 to 1.2 of the whole); sigma stays pooled over all rows.
        """
        errors = self.errors[:, :steps][:, :, rows]
        return RoundingEnvelope(_pooled(errors, spread), self.sigma[:steps], errors, self.fault_free_runs)

    def after(self, spread: F64, begun: int) -> RoundingEnvelope:
        """Of the steps from `begun` on; `spread` is of those."""
        errors = self.errors[:, begun:]
        return RoundingEnvelope(_pooled(errors, spread), self.sigma[begun:], errors, self.fault_free_runs)


def cell_errors(got: NDArray[np.float32], want: NDArray[np.float32]) -> F64:
    """RMS centred error (steps, rows), logit units, of projections `got` against `want`, both (steps, rows, 256)."""
    difference = got.astype(np.float64) - want.astype(np.float64)
    return np.asarray(np.sqrt((difference * difference).mean(axis=-1)), dtype=np.float64)


def measure(
    projections: NDArray[np.float32], spread: F64, fault_free: Mapping[str, Scores], excuse: Excuse | None = None
) -> RoundingEnvelope:
    """The envelope of `honest` runs, teacher forced on the reference whose `projections` and `spread` are given.

    `excuse(errors, nrms)` says which cells of one run, by its `errors` (steps, rows) and the nrms of its median cell,
    took another expert at a near tie of a router: they are left out.

    Raises BadInput when there is no run, a run has another shape, is not finite or exact to the bit, or when runs
    disagree by more than a quarter (a half with `excuse`), or when one cell of a run stands out.
    """
    errors, each = errors_of(projections, spread, fault_free, excuse)
    apart = AGREEMENT if excuse is None else AGREEMENT_OF_EXPERTS
    if min(each.values()) <= 0 or max(each.values()) > apart * min(each.values()):
        raise BadInput(
            f"fault-free runs read nrms {', '.join(f'{name}: {value:.3g}' for name, value in each.items())}: more than "
            f"{apart} apart (or no error at all), so one of them is not a fault-free run of this scheme; drop it"
        )
    for name, cells in zip(fault_free, errors, strict=True):
        if np.nanmax(cells) > OUTLIER * np.nanmedian(cells):
            step, row = (int(i) for i in np.unravel_index(int(np.nanargmax(cells)), cells.shape))
            raise BadInput(
                f"fault-free run {name!r} is off by {cells[step, row]:.3g} at step {step} of prompt {row}, by median "
                f"by {np.nanmedian(cells):.3g}: a fault there would widen the envelope for everyone; drop this run"
            )
    sigma = np.sqrt(_mean_square(errors, 2)).max(axis=0)
    return RoundingEnvelope(max(each.values()), sigma, errors, tuple(fault_free))


def check_size(precision: str, nrms: float, emulated: float | None) -> str:
    """What is to be said of a tolerance `nrms`: its size in roundings, and beside an emulation's.

    `emulated` is what an emulation of this precision reads on this very model, which decides where there is one: a
    deep or a sharp model amplifies rounding, and its emulation with it. Without one, MOST_ROUNDINGS decides.
    Raises BadInput, with both numbers, on a tolerance that rounding does not explain.
    """
    unit = UNITS.get(precision, INT8_UNIT)
    said = f"{precision} tolerance nrms {nrms:.3g}, {nrms / unit:.1f} roundings of {unit:.3g}"
    if emulated is None:
        limit, rule = MOST_ROUNDINGS * unit, f"no emulation of this model; at most {MOST_ROUNDINGS} roundings"
    else:
        limit = MOST_OF_EMULATION * emulated
        rule = f"an emulation in NumPy reads {emulated:.3g}, and at most {MOST_OF_EMULATION:g} times that"
    if not nrms <= limit:
        raise BadInput(
            f"{said}; {rule} ({limit:.3g}) is rounding: the runs that it is made of are wrong together, so that "
            "engines with a fault would pass by it. Compare their fp32 with the oracle (`genqual bisect`), or make the "
            "reference without this precision: --schemes ''"
        )
    return f"{said} ({rule} is allowed)"


def errors_of(
    projections: NDArray[np.float32], spread: F64, runs: Mapping[str, Scores], excuse: Excuse | None = None
) -> tuple[F64, dict[str, float]]:
    """Errors (runs, steps, rows) in logit units, nan where `excuse` leaves a cell out, and the nrms of each run.

    Raises BadInput when there is no run, or one has another shape or is not finite.
    """
    if not runs:
        raise BadInput("an envelope needs at least one fault-free run; two that differ in kernels or cache are wanted")
    for name, scores in runs.items():
        if scores.projections.shape != projections.shape or not (
            scores.finite.all() and np.isfinite(scores.projections).all()
        ):
            raise BadInput(
                f"fault-free run {name!r}: shape {scores.projections.shape}, all finite: {bool(scores.finite.all())}; "
                f"wanted {projections.shape}, all finite, forced on the reference's own tokens"
            )
    errors = np.stack([cell_errors(scores.projections, projections) for scores in runs.values()])
    if excuse is not None:
        pooled = float(np.sqrt((spread * spread).mean()))
        for run in errors:
            run[excuse(run, float(np.median(run)) / pooled)] = np.nan
    return errors, {name: _pooled(errors[i : i + 1], spread) for i, name in enumerate(runs)}


def _pooled(errors: F64, spread: F64) -> float:
    return float(np.sqrt(_mean_square(errors, (1, 2)).max() / (spread * spread).mean()))


def _mean_square(errors: F64, axis: int | tuple[int, int]) -> F64:
    """Over what is not nan along `axis`; where nothing is left, that of all that is left."""
    counted = ~np.isnan(errors)
    squares, counts = np.where(counted, errors * errors, 0.0), counted.sum(axis=axis)
    if counted.all():
        return np.asarray(squares.mean(axis=axis), dtype=np.float64)
    whole = squares.sum() / max(1, counted.sum())
    return np.asarray(np.where(counts > 0, squares.sum(axis=axis) / np.maximum(counts, 1), whole), dtype=np.float64)
