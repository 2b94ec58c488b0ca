"""Search for the largest batch that fits on the live ranks of a case, and record it. No torch, no pytest hook."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Case, Json, Workload
from genqual.engines.base import TokenBatch
from genqual.errors import EngineFailed, OutOfMemory
from genqual.metrics import bisection, compute
from genqual.metrics.bisection import Capacity
from genqual.models.prompts import synthetic_rows
from genqual.ranks.client import Generator
from genqual.session.context import Run
from genqual.session.groups import ran, ran_if_alive


def largest_batch(run: Run, case: Case, workload: Workload, *, label: str) -> tuple[Capacity, Path]:
    """The most rows of the workload's lengths that fit, recorded as a metric of its own.

    Raises EngineFailed when the ranks, after all that ran out of memory, do not answer as they did before.
    """
    generator, most = run.groups.generator(case), run.selection.profile.largest_batch or 1
    weights_sha256, asked = run.references.weights_sha256(case.model), protocol(run)
    with run.records.recorder.attempt(
        case,
        workload,
        weights_sha256=weights_sha256,
        protocol=asked,
        inspect=lambda: ran_if_alive(run.groups.pool, generator),
        label=label,
    ):
        found = _search(run, generator, workload, most)
        inspection = ran(generator)
    note = f"capped at {most} rows by the profile" if found.capped else ""
    one = compute.Measured(
        "largest_batch", "rows", float(found.largest), (float(found.largest),), "by bisection", "higher", note
    )
    path = run.records.recorder.measurement(
        case,
        workload,  # what was found and tried is no part of the key: a later search takes this one's place
        {"largest_batch": one},
        {},
        weights_sha256=weights_sha256,
        protocol=asked,
        inspection=inspection,
        label=label,
        labels={"tried": json.dumps(found.tried)},
    )
    return found, path


def protocol(run: Run) -> dict[str, Json]:
    """What defines the search, before anything was tried."""
    return {"search": "bisection", "most": run.selection.profile.largest_batch or 1}


def _search(run: Run, generator: Generator, workload: Workload, most: int) -> Capacity:
    case = generator.case
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
    found = bisection.search(fits, most)
    if not np.array_equal(tokens(1), before) or not generator.verify_unmutated():
        raise EngineFailed(f"{case}: after running out of memory the ranks no longer answer as they did before")
    return found
