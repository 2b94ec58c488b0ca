"""Which slowdown a baseline can find at the promised error rates, from what its launches and occasions vary by. Pure.

docs/evidence/gate-drift.md derives it, and `python -m tests.benchmarks.gate_two_stages` checks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from genqual.gate.baseline_file import Entry, Launch
from genqual.gate.decision import ALPHA, FLOOR, Against, Settings, settings_for
from genqual.gate.drift import Drift, estimated, grouped, occasions_of, prior
from genqual.gate.evalues import threshold
from genqual.metrics.registry import rule

POWER_Z: Final = (
    2.75  # 99 % of slowdowns by the tolerance are found: 2.33 of the normal, and what sigma is not known to
)
NOISE: Final = 0.22  # of the tolerance: the most that an occasion's launches vary: docs/gate-theory.md, "Error rates"
WIDEST: Final = 0.5  # a baseline that cannot find half as slow again is none
_METRICS: Final = 8  # over which a run usually splits alpha


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the drift of a baseline's class: `drift`, and the occasion of each of its launches."""

    drift: Drift
    occasions: tuple[int, ...]

    @classmethod
    def of(cls, entry: Entry) -> Known:
        """As the entry says; an older one says it by its batches, and the prior helps."""
        if entry.drift is None:
            return cls.measured(entry.launches, prior(standard(entry), stepped=rule(entry.subject.metric).stepped))
        each = occasions_of([one.batch for one in entry.launches], entry.drift.occasions)
        return cls(Drift(entry.drift.sd, entry.drift.freedom), tuple(each))

    @classmethod
    def measured(
        cls,
        launches: Sequence[Launch],
        prior_sd: float,
        occasions: Sequence[int] | None = None,
        others: Sequence[Sequence[Sequence[float]]] = (),
    ) -> Known:
        """From the launches of one build, whose batches were made on `occasions` (None: nobody kept that), and from
        `others`: further builds, each with its occasions, each with the log ratios of its launches.
        """
        each = occasions_of([one.batch for one in launches], occasions)
        own = grouped([one.z for one in launches], each)
        return cls(estimated([own, *others], prior_sd), tuple(each))


def standard(entry: Entry) -> float:
    """The tolerance that the entry's metric has where nothing widens it."""
    subject = entry.subject
    return settings_for(subject.metric, subject.ranks, hook=entry.hook == "steps").tolerance


def needed(launches: Sequence[Launch], known: Known, settings: Settings) -> float:
    """The least tolerance, relative, at which a baseline of `launches` keeps the error rates and finds 99 %.

    After the last launch that a run makes, the distance at which evidence suffices, and beyond it what chance takes.
    """
    against = Against.of([one.z for one in launches], known.drift.cautious, known.occasions)
    sigma = max(math.sqrt(against.squares / against.freedom), FLOOR)
    error, reach = against.error(settings.k_max, sigma)
    freedom = against.freedom + settings.k_max - 1.0
    alpha = min(settings.alpha, ALPHA / _METRICS)
    most = max(threshold(-math.log(chance), freedom, reach) for chance in (alpha, settings.beta))
    return max(math.expm1(min(error * (most + POWER_Z), 1.0)), sigma / NOISE)


def paired(launches: Sequence[Launch], known: Known, settings: Settings) -> float:
    """The tolerance where builds take turns in one run: drift cancels, and what launches vary by remains."""
    sigma = Against.of([one.z for one in launches], 0.0, known.occasions).sigma
    return max(settings.tolerance, _whole(sigma / NOISE))


def allowed(launches: Sequence[Launch], known: Known, settings: Settings, *, widest: float = WIDEST) -> float:
    """`settings.tolerance` where that can be held, else the least whole percent that can; above `widest` the former,
    and whoever makes a baseline refuses it.
    """
    least = needed(launches, known, settings)
    if least <= settings.tolerance:
        return settings.tolerance
    whole = _whole(least)
    return whole if whole <= widest else settings.tolerance


def _whole(share: float) -> float:
    """The least whole percent that is not less."""
    return math.ceil(round(100.0 * share, 6)) / 100.0
