"""Top-k routers of mixtures of experts, and how near each choice was to another one. Pure: NumPy float64 only.

Sources: Shazeer et al. 2017 (top-k of a softmax), Jiang et al. 2024 (Mixtral: the chosen weights sum to one),
DeepSeek-AI 2024 (V2: groups of experts, the best of a group stands for it; V3: sigmoid scores, a correction bias that
chooses and does not weigh, the two best of a group stand for it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.oracle.mlp import sigmoid
from genqual.errors import BadInput


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """Where each token goes: `experts` and their `weights`, both (tokens, top_k), best first.

    `margins` (tokens,), in units of the router's logits: the smallest error of them that changes the choice of experts,
    or of the groups they may come from. Each logit may be off by that much, in the worst direction. To first order in
    the error; infinite where every expert is chosen.
    """

    experts: I64
    weights: F64
    margins: F64


@dataclass(frozen=True, slots=True)
class Router:
    """How `top_k` experts are chosen and weighed.

    `score` of an expert is softmax over all experts, or sigmoid of its own logit. `normalise`: the chosen weights sum
    to one, before `scale`. With `groups` above 1, only the experts of the best `groups_kept` groups can be chosen; a
    group counts as much as the sum of its best `group_counts` scores.
    """

    top_k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = False
    scale: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    group_counts: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.groups_kept <= self.groups or self.top_k < 1 or self.group_counts < 1:
            raise BadInput(
                f"a router of top_k {self.top_k}, {self.groups_kept} of {self.groups} groups, {self.group_counts} "
                f"scores a group: each must be at least 1, and no more groups kept than there are"
            )

    def check(self, experts: int) -> None:
        """Raises BadInput when so many experts cannot be chosen from as this router does."""
        size = experts // self.groups
        if experts % self.groups or size * self.groups_kept < self.top_k or size < self.group_counts:
            raise BadInput(
                f"{experts} experts in {self.groups} groups, of which {self.groups_kept} are kept: top {self.top_k} of "
                f"them cannot be chosen by the best {self.group_counts} scores a group"
            )

    def route(self, logits: F64, correction: F64 | None = None) -> Routing:
        """Choose by `logits` (tokens, experts), with `correction` (experts,) added to the scores for the choice only.

        The lowest id wins a tie. Raises BadInput as `check`, and on a correction of a softmax, which no published model
        has.
        """
        if correction is not None and self.score == "softmax":
            raise BadInput(
                "a correction bias on softmax scores: only sigmoid scores are corrected by a published model"
            )
        tokens, count = logits.shape
        self.check(count)
        scores = _softmax(logits) if self.score == "softmax" else sigmoid(logits)
        ranks, slopes = self._ranks(logits, scores, correction)
        margins, allowed = np.full(tokens, np.inf), np.ones((tokens, count), dtype=np.bool_)
        if self.groups_kept < self.groups:
            kept, margins = self._groups(ranks, slopes)
            allowed = np.repeat(kept, count // self.groups, axis=1)
        experts, nearest = _best(np.where(allowed, ranks, -np.inf), slopes, self.top_k)
        weights = np.take_along_axis(scores, experts, axis=1)
        if self.normalise:
            weights = weights / weights.sum(axis=1, keepdims=True)
        return Routing(experts, weights * self.scale, np.minimum(margins, nearest))

    def _ranks(self, logits: F64, scores: F64, correction: F64 | None) -> tuple[F64, F64]:
        """What orders the experts, (tokens, experts), and how fast each moves with its own logit."""
        if correction is None and (self.groups_kept == self.groups or self.group_counts == 1):
            return logits, np.ones_like(logits)  # scores grow with their logits, so the logits give the same order
        # The sum that all softmax scores are divided by changes no order, so its movement is left out.
        slopes = scores if self.score == "softmax" else scores * (1.0 - scores)
        return scores if correction is None else scores + correction, slopes

    def _groups(self, ranks: F64, slopes: F64) -> tuple[NDArray[np.bool_], F64]:
        """Which groups are kept (tokens, groups), and the smallest error of the logits that keeps another (tokens,)."""
        ranks, slopes = (a.reshape(len(a), self.groups, -1) for a in (ranks, slopes))
        best = np.argsort(-ranks, axis=2, kind="stable")[..., : self.group_counts]
        values, moves = (np.take_along_axis(a, best, axis=2).sum(axis=2) for a in (ranks, slopes))
        groups, nearest = _best(values, moves, self.groups_kept)
        kept = np.zeros(values.shape, dtype=np.bool_)
        np.put_along_axis(kept, groups, values=True, axis=1)
        return kept, nearest


def _best(values: F64, slopes: F64, k: int) -> tuple[I64, F64]:
    """The `k` highest of `values` (tokens, n), and the smallest error of all logits that puts another in their place.

    A value moves by its slope times the error of its logits. -inf never takes another's place; where there is no
    other, the error is infinite.
    """
    order = np.argsort(-values, axis=1, kind="stable").astype(np.int64)
    high, moves_high = (np.take_along_axis(a, order[:, :k], axis=1)[:, :, None] for a in (values, slopes))
    low, moves_low = (np.take_along_axis(a, order[:, k:], axis=1)[:, None, :] for a in (values, slopes))
    # A slope of zero is that of a saturated score, which no small error moves; two of them may still be equal.
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(high > low, (high - low) / (moves_high + moves_low), 0.0)
    return order[:, :k], errors.min(axis=(1, 2), initial=np.inf)


def _softmax(logits: F64) -> F64:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)
