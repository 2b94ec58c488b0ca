"""The two stages of a verdict: by the baseline's file, then by launches of its build in turns with today's. Pure.

Stage one compares with launches of other occasions, so its evidence counts drift. What that leaves open at the metric's
own tolerance goes to stage two, where both builds share the occasion and drift cancels. Each stage has half of alpha
and half of beta: the chance that either is wrong is at most their sum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from genqual.gate.decision import Settings

MOST: Final = 5  # launches of stage one where stage two can follow: more of them say nothing of drift
SHARE: Final = 0.5  # of alpha, beta and the budget that stage one may spend where stage two can follow


def stage_one(settings: Settings) -> Settings:
    """The settings of stage one, where stage two can follow."""
    share = replace(settings, alpha=settings.alpha * SHARE, beta=settings.beta * SHARE)
    return replace(share, k_max=max(settings.k_min, min(MOST, settings.k_max)))


def pairs_of(settings: Settings) -> Settings:
    """The settings of stage two after a stage one."""
    return replace(settings, alpha=settings.alpha * (1.0 - SHARE), beta=settings.beta * (1.0 - SHARE))
