"""Turn the logits of each forced step into `Scores`, in float64 on the host. No model, no clock, no device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from genqual.engines.base import Scores
from genqual.engines.projection import TOP, project


def on_host(logits: torch.Tensor) -> NDArray[np.float64]:
    """`logits` as float64 on the CPU: moved first and widened after, so that the device under test computes nothing."""
    return logits.detach().to("cpu").to(torch.float64, copy=True).numpy()


def top(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and values of the 16 largest entries of each row (rows, vocabulary), best first, equals by lowest id.

    `torch.topk` promises no order among equals, and bf16 logits are often equal. Raises ValueError below 16 columns.
    """
    rows, vocabulary = values.shape
    if vocabulary < TOP:
        raise ValueError(f"a vocabulary of {vocabulary} has no top {TOP}")
    ids = np.empty((rows, TOP), dtype=np.int64)
    least = torch.from_numpy(values).topk(TOP).values[:, -1].numpy()
    for row in range(rows):
        candidates = np.flatnonzero(values[row] >= least[row])
        ids[row] = candidates[np.argsort(-values[row, candidates], kind="stable")[:TOP]]
    return ids, np.take_along_axis(values, ids, axis=1)


def logsumexp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm of the sum of exponentials of each row."""
    peak = values.max(axis=-1)
    return np.asarray(peak + np.log(np.exp(values - peak[:, None]).sum(axis=-1)))


# Logits that wait to be projected together: the signs of a large vocabulary take 100 MB and more, and reading them for
# one step's few rows costs as much as the model does.
_WAITING_BYTES: Final = 96 << 20


@dataclass(slots=True)
class ScoreRecorder:
    """Collects `Scores` step by step; `add` takes one step's (rows, vocabulary) logits and the (rows,) forced ids."""

    keep_logits: bool = False
    _steps: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    _logits: list[NDArray[np.float32]] = field(default_factory=list)
    _waiting: list[NDArray[np.float64]] = field(default_factory=list)
    _projected: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, logits: torch.Tensor, forced: NDArray[np.int64]) -> None:
        """Record one step. A row that is not finite is counted as such and its other statistics are zero."""
        values = on_host(logits)
        if self.keep_logits:
            self._logits.append(values.astype(np.float32))
        finite = np.asarray(np.isfinite(values).all(axis=-1))
        values[~finite] = 0.0
        top_ids, top_logits = top(values)
        top_ids[~finite] = 0
        chosen = np.take_along_axis(values, forced[:, None], axis=1)[:, 0]
        total = np.where(finite, logsumexp(values), 0.0)
        self._steps.append((top_ids, top_logits, total, chosen, finite))
        self._waiting.append(values)
        if values.nbytes * len(self._waiting) >= _WAITING_BYTES:
            self._project()

    def scores(self) -> Scores:
        """All steps so far, step first. Raises ValueError when there is none."""
        if not self._steps:
            raise ValueError("no step was recorded")
        self._project()
        top_ids, top_logits, total, chosen, finite = (np.stack(part) for part in zip(*self._steps, strict=True))
        return Scores(
            projections=np.concatenate(self._projected).reshape(*finite.shape, -1),
            top_ids=top_ids.astype(np.int64, copy=False),
            top_logits=top_logits.astype(np.float64, copy=False),
            logsumexp=total.astype(np.float64, copy=False),
            forced_logit=chosen.astype(np.float64, copy=False),
            finite=finite.astype(np.bool_, copy=False),
            logits=np.stack(self._logits) if self.keep_logits else None,
        )

    def _project(self) -> None:
        """Project what waits. The same request is cut into the same parts, and so gives the same bits."""
        if self._waiting:
            self._projected.append(project(np.concatenate(self._waiting)))
            self._waiting.clear()
