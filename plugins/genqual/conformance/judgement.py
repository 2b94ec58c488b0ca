"""What a judgement says, and what each precision mode tolerates. Pure: NumPy only; no pytest, no torch, no clock."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np

from genqual.cases import Json
from genqual.conformance.oracle.core import F64
from genqual.conformance.references.data import Reference
from genqual.conformance.tolerance import ASSUMED_NRMS, RoundingEnvelope

Lane = Literal["fp32", "declared"]
Tier = Literal["logits", "top", "tokens", "weights", "evidence", "text"]
Status = Literal["pass", "fail", "no_reference"]

FP32_LIMIT: Final = 1e-5
ENVELOPE_FACTOR: Final = 1.25
MARGIN_SIGMAS: Final = 8.0

NO_REFERENCE: Final = "There is no reference of this model, so nothing was judged: make one with `genqual reference`."

# Rotary angles in fp32 are position x frequency: their rounding grows with the position, and with it a fault-free
# error.
_FP32_POSITIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and what it rests on. `explanation` is one paragraph for the person who reads the test's failure.

    `nrms` (dimensionless) must stay at or under `limit` (under, in fp32 mode); `ratio` is nrms in the precision mode's
    own unit: 1 is the fault-free envelope in declared mode, the limit in fp32 mode. `flips` counts argmax choices that
    differ, `flips_beyond_margin` those that no fault-free error explains. `worst` is the (step, row) nearest to or
    furthest beyond its bound. `judged` of `total` (step, row) cells were judged. None: not measured. `shape` is (steps,
    rows) of what was judged, None where that has no steps and rows, or several shapes were judged.
    """

    status: Status
    lane: Lane
    tier: Tier
    explanation: str
    nrms: float | None = None
    limit: float | None = None
    ratio: float | None = None
    flips: int = 0
    flips_beyond_margin: int = 0
    worst: tuple[int, int] | None = None
    judged: int = 0
    total: int = 0
    independent: bool | None = None  # of the oracle from the engines; None where no oracle was asked
    shape: tuple[int, int] | None = None

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    def as_json(self) -> dict[str, Json]:
        """Plain data for a record."""
        places: dict[str, Json] = {
            "worst": list(self.worst) if self.worst else None,
            "shape": list(self.shape) if self.shape else None,
        }
        return {**asdict(self), **places, "passed": self.passed}


@dataclass(frozen=True, slots=True, eq=False)
class Tolerance:
    """What a precision mode allows: `limit` on nrms, `unit` of `ratio`, `sigma` (steps,) logit units, `k` sigmas."""

    lane: Lane
    limit: float
    unit: float
    sigma: F64
    k: float
    words: str  # how it was come by, for the explanation

    @property
    def bound(self) -> F64:
        """Logit units a fault-free choice may fall behind, and a row's RMS error may reach; (steps, 1)."""
        return self.k * self.sigma[:, None]


def precision_mode_of(dtype: str) -> Lane:
    """The precision mode that scores of `dtype` are judged in. TF32 is no fp32: the caller turns it off."""
    return "fp32" if dtype == "fp32" else "declared"


def fp32_limit_at(longest: int, limit: float = FP32_LIMIT) -> float:
    """The fp32 mode's limit on nrms for rows of `longest` positions: `limit` up to 1024, then in proportion."""
    return limit * max(1.0, longest / _FP32_POSITIONS)


def against_oracle(reference: Reference, dtype: str, fp32_limit: float, factor: float, k: float) -> Tolerance | None:
    """What an engine of `dtype` may differ from `reference`; None when it has no envelope of that scheme."""
    if precision_mode_of(dtype) == "fp32":
        limit = fp32_limit_at(reference.longest, fp32_limit)
        sigma = np.full(reference.steps, limit * reference.pooled_spread)
        return Tolerance("fp32", limit, limit, sigma, k, f"{reference.longest} positions")
    envelope = reference.envelopes.get(dtype)
    if envelope is None:
        return None
    words = f"{factor} x the {dtype} envelope {envelope.nrms:.3g} of {len(envelope.fault_free_runs)} fault-free runs"
    return Tolerance("declared", factor * envelope.nrms, envelope.nrms, envelope.sigma, k, words)


def judged_by(
    reference: Reference | None,
    dtype: str,
    tier: Tier,
    *,
    fp32_limit: float = FP32_LIMIT,
    factor: float = ENVELOPE_FACTOR,
    k: float = MARGIN_SIGMAS,
) -> tuple[Reference, Tolerance] | Judgement:
    """What a run of `dtype` is judged by, or the judgement that there is nothing to judge it by."""
    lane = precision_mode_of(dtype)
    if reference is None:
        return Judgement("no_reference", lane, tier, NO_REFERENCE)
    tolerance = against_oracle(reference, dtype, fp32_limit, factor, k)
    if tolerance is None:
        known = ", ".join(sorted(reference.envelopes)) or "none"
        text = (
            f"The reference of {reference.model} has no envelope of {dtype} (it has: {known}), so nothing was judged; "
            f"add one from fault-free runs with `genqual reference MODEL --add --schemes {dtype}`, or run fp32."
        )
        return Judgement(
            "no_reference",
            lane,
            tier,
            text,
            independent=reference.independent,
            shape=(reference.steps, reference.rows),
        )
    return reference, tolerance


def between_runs(
    envelope: RoundingEnvelope | None,
    spread: float,
    steps: int,
    dtype: str,
    fp32_limit: float,
    factor: float,
    k: float,
    *,
    exact: bool = False,
) -> Tolerance | None:
    """What two runs of `dtype` may differ from each other; None for a scheme about which nothing is known.

    Two fault-free errors add up to sqrt(2) of one when they are independent; where one run is `exact`, there is one
    error. Without an envelope the assumed one of the dtype stands in. sigma is the same at each step: a property's
    prompts are not those of the envelope.
    """
    errors = 1.0 if exact else float(np.sqrt(2.0))
    if precision_mode_of(dtype) == "fp32":
        limit = errors * fp32_limit
        return Tolerance("fp32", limit, limit, np.full(steps, limit * spread), k, "one run" if exact else "two runs")
    assumed = ASSUMED_NRMS.get(dtype)
    if envelope is None and assumed is None:
        return None
    fault_free, source = (
        (envelope.nrms, "measured") if envelope is not None else (assumed or 0.0, "assumed, not measured")
    )
    unit = errors * fault_free
    words = f"{'' if exact else 'sqrt 2 x '}{factor} x the {dtype} envelope {fault_free:.3g}, {source}"
    return Tolerance("declared", factor * unit, unit, np.full(steps, unit * spread), k, words)
