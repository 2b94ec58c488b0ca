"""The two stages of a verdict: by the baseline's file, then by launches of its build in turns with today's. Pure.

Stage one compares with launches of other occasions, so its evidence counts drift. What that leaves open at the metric's
own tolerance goes to stage two, where both builds share the occasion and drift cancels. Each stage has half of alpha
and half of beta: the chance that either is wrong is at most their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from genqual.gate.decision import Settings
from genqual.gate.tolerances import Known

MOST: Final = 5  # launches of stage one where stage two can follow: more of them say nothing of drift
SHARE: Final = 0.5  # of alpha, beta and the budget that stage one may spend where stage two can follow


def stage_one(settings: Settings) -> Settings:
    """The settings of stage one, where stage two can follow."""
    share = replace(settings, alpha=settings.alpha * SHARE, beta=settings.beta * SHARE, final=False)
    return replace(share, k_max=max(settings.k_min, min(MOST, settings.k_max)))


def pairs_of(settings: Settings) -> Settings:
    """The settings of stage two after a stage one."""
    return replace(settings, alpha=settings.alpha * (1.0 - SHARE), beta=settings.beta * (1.0 - SHARE))


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage as it is run. `known`: the drift that counts, None where both sides share the occasion.

    `share` of the budget may be spent in it; `note` is said with its verdict.
    """

    settings: Settings
    known: Known | None = None
    share: float = 1.0
    note: str = ""
