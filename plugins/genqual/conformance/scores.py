"""The statistics of whole logits, as a rank computes them for an engine. Pure: NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import Scores
from genqual.engines.projection import TOP, project


def scores_of(logits: NDArray[Any], forced: NDArray[np.int64]) -> Scores:
    """Scores of `logits` (steps, rows, vocabulary) at the choices `forced` (rows, steps).

    In float64; the lowest id comes first among equals. Raises ValueError when the shapes disagree or the vocabulary
    is smaller than the 16 that a score lists.
    """
    steps, rows, vocabulary = logits.shape
    if forced.shape != (rows, steps) or vocabulary < TOP:
        raise ValueError(
            f"logits {logits.shape} and forced {forced.shape}: (steps, rows, at least {TOP}), (rows, steps)"
        )
    finite = np.isfinite(logits).all(axis=-1)
    values = np.where(finite[..., None], logits, 0.0).astype(np.float64)
    top_ids = np.argsort(-values, axis=-1, kind="stable")[..., :TOP].astype(np.int64)
    top = np.take_along_axis(values, top_ids, axis=-1)
    shifted = np.exp(values - top[..., :1]).sum(axis=-1)
    at_forced = np.take_along_axis(values, forced.T[..., None], axis=-1)[..., 0]
    return Scores(
        projections=project(values),
        top_ids=np.where(finite[..., None], top_ids, 0),
        top_logits=top,
        logsumexp=np.where(finite, top[..., 0] + np.log(shifted), 0.0),
        forced_logit=at_forced,
        finite=finite,
    )
