"""How far fault-free runs of a scheme spread, and how often the rules alarm on one left out. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from genqual.cases import Json
from genqual.conformance.judgement import against_oracle
from genqual.conformance.judges.logits import judge_scores
from genqual.conformance.references.data import Reference
from genqual.conformance.router_ties import excuse_of, excused, near_cells, tie_margin
from genqual.conformance.tolerance import measure
from genqual.engines.base import Scores
from genqual.errors import BadInput

LEAST: Final = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One fault-free run judged by the envelope of the others: `ratio` to it, worst cell and worst flip in sigma.

    `committed` is its ratio to the envelope that the reference has, None where it has none of the scheme; `alarm` is
    true where either envelope refuses it.
    """

    run: str
    ratio: float
    cell_sigmas: float
    flip_sigmas: float
    alarm: bool
    committed: float | None = None

    def as_json(self) -> dict[str, Json]:
        return {
            **{"run": self.run, "ratio": round(self.ratio, 4), "cell_sigmas": round(self.cell_sigmas, 3)},
            **{"flip_sigmas": round(self.flip_sigmas, 3), "alarm": self.alarm},
            "committed": None if self.committed is None else round(self.committed, 4),
        }


def leave_one_out(reference: Reference, scheme: str, fault_free: Mapping[str, Scores]) -> list[LeftOut]:
    """Judge each of at least five `honest` runs by the envelope that the others make. Raises BadInput on fewer."""
    if len(fault_free) < LEAST:
        raise BadInput(f"{scheme}: {len(fault_free)} fault-free runs; at least {LEAST} are needed to tell their spread")
    found = []
    for name, scores in fault_free.items():
        others = {other: one for other, one in fault_free.items() if other != name}
        envelope = measure(reference.projections, reference.spread, others, excuse_of(reference))
        judged = replace(reference, envelopes={**reference.envelopes, scheme: envelope}, sha256="")
        tolerance = against_oracle(judged, scheme, 1e-5, 1.25, 8.0)
        verdict = judge_scores(scores, judged, dtype=scheme)
        if tolerance is None or verdict.ratio is None:
            raise BadInput(f"{scheme}: the run {name!r} cannot be judged: {verdict.explanation}")
        error = scores.projections.astype(np.float64) - reference.projections
        cells = np.sqrt((error * error).mean(axis=-1)) / tolerance.sigma[:, None]
        flipped = scores.top_ids[..., 0] != reference.tokens
        flips = np.where(flipped, reference.margins / tolerance.sigma[:, None], 0.0)
        margin = tie_margin(tolerance)
        excuse = excused(
            cells * tolerance.sigma[:, None], tolerance.sigma, flips > 8.0, near_cells(judged, margin), margin
        )
        if excuse is not None:
            cells, flips = (np.where(excuse.cells, 0.0, values) for values in (cells, flips))
        committed = judge_scores(scores, reference, dtype=scheme) if scheme in reference.envelopes else None
        alarm = not verdict.passed or (committed is not None and not committed.passed)
        ratio = None if committed is None else committed.ratio
        found.append(LeftOut(name, verdict.ratio, float(cells.max()), float(flips.max()), alarm, ratio))
    return found


def summary(scheme: str, runs: list[LeftOut]) -> str:
    """One line: the spread, what stands nearest to each rule, and the rate of false alarms."""
    ratios = [one.ratio for one in runs]
    alarms = sum(one.alarm for one in runs)
    committed = [one.committed for one in runs if one.committed is not None]
    by = f", {min(committed):.3f} to {max(committed):.3f} of the committed one" if committed else ""
    return (
        f"{scheme}: {len(runs)} fault-free runs read {min(ratios):.3f} to {max(ratios):.3f} of the others' envelope"
        f"{by} (allowed 1.25), cells up to {max(one.cell_sigmas for one in runs):.2f} and flips up to "
        f"{max(one.flip_sigmas for one in runs):.2f} sigma (allowed 8); {alarms} of {len(runs)} would alarm"
    )
