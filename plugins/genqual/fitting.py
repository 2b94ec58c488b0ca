"""Search for the largest batch that fits on the live ranks of a case, and record it. No torch, no pytest hook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import TokenBatch
from genqual.errors import EngineFailed, OutOfMemory
from genqual.models.prompts import synthetic_rows
from genqual.performance import capacity, metrics
from genqual.performance.capacity import Capacity
from genqual.run import Run
from genqual.spec import Case, Workload


def largest_batch(run: Run, case: Case, workload: Workload, *, label: str) -> tuple[Capacity, Path]:
    """The most rows of the workload's lengths that fit, recorded as a metric of its own.

    Raises EngineFailed when the ranks, after all that ran out of memory, do not answer as they did before.
    """
    generator = run.generator(case)
    most = run.selection.profile.largest_batch or 1
    vocabulary = generator.loaded[0].vocabulary

    def tokens(rows: int) -> NDArray[np.int64]:
        batch = TokenBatch.of(synthetic_rows(vocabulary, rows, workload.input_length, seed=0))
        return generator.generate(batch, workload.new_tokens).tokens

    def fits(rows: int) -> bool:
        run.progress(f"{case}: does a batch of {rows} fit?")
        try:
            tokens(rows)
        except OutOfMemory:
            return False
        return True

    before = tokens(1)
    found = capacity.search(fits, most)
    if not np.array_equal(tokens(1), before) or not generator.verify_unmutated():
        raise EngineFailed(f"{case}: after running out of memory the ranks no longer answer as they did before")
    note = f"capped at {most} rows by the profile" if found.capped else ""
    one = metrics.Metric(
        "largest_batch", "rows", float(found.largest), (float(found.largest),), "by bisection", "higher", note
    )
    path = run.recorder.measurement(
        case,
        replace(workload, batch=max(1, found.largest)),
        {"largest_batch": one},
        {},
        weights_sha256=run.weights_sha256(case.model),
        protocol={"search": "bisection", "most": most, "tried": [list(pair) for pair in found.tried]},
        inspection=run.inspection(case),
        label=label,
    )
    return found, path
