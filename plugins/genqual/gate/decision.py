"""Decide about one metric from launches of now and launches of the baseline. Pure: no pytest, no torch, no clock.

Source of the mathematics and of the numbers: docs/gate-theory.md, "The e-process".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from genqual.gate.drift import grouped
from genqual.gate.evalues import log_e, threshold
from genqual.gate.verdict import Verdict
from genqual.metrics.registry import rule, rules

ALPHA: Final = 0.001  # of a run: the chance that an unchanged tree is called REGRESSED, split over its metrics
BETA: Final = 0.005  # of a metric: the chance that a slowdown of the tolerance is called PASS
CONFIDENCE: Final = 0.95  # of the interval that is shown; it may be looked at after every launch
FLOOR: Final = (
    0.003  # a launch is never believed to vary less: launches of one hour are more alike than those of a year
)
NOISIER: Final = 2.0  # times the baseline's deviation: above, the degrees of freedom are those of now alone

GATED: Final = tuple(rules())
"""The metrics that the gate judges, in the order in which tables show them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked of the launches. `tolerance` 0.05: a slowdown of 5 % must be found, half of it is no matter.

    `allowance` 0.025: up to 2.5 % either way may be the hour's, not the code's, and is no evidence of a change; nor is
    a PASS what would be one only with that. `final` False: a stage follows, which tells whether code that reads faster
    by more than half of the tolerance is; so it does not pass here.
    """

    tolerance: float
    alpha: float = ALPHA
    beta: float = BETA
    k_min: int = 3
    k_max: int = 12
    allowance: float = 0.0
    final: bool = True

    def __post_init__(self) -> None:
        if not (0.0 < self.tolerance < 1.0 and 0.0 < self.alpha < 1.0 and 0.0 < self.beta < 1.0):
            raise ValueError(f"{self}: tolerance, alpha and beta lie between 0 and 1")
        if not 0.0 <= self.allowance < self.tolerance:
            raise ValueError(f"allowance {self.allowance}: from 0 to less than the tolerance, {self.tolerance}")
        if not 2 <= self.k_min <= self.k_max:
            raise ValueError(f"launches {self.k_min} to {self.k_max}: at least 2, and not fewer at most than at least")


def settings_for(
    metric: str, ranks: int, *, metrics: int = 1, hook: bool = True, tolerance: float | None = None
) -> Settings:
    """The settings of a metric: alpha is split over the `metrics` of the run.

    Several ranks, and engines that can only be alternated by whole requests (`hook` False), have twice the tolerance;
    a baseline's own `tolerance`, measured where hours are less alike, stands above both.
    """
    standard = rule(metric).tolerance or (0.05 if ranks == 1 and hook else 0.10)
    return Settings(tolerance or standard, alpha=ALPHA / max(1, metrics))


@dataclass(frozen=True, slots=True)
class Decision:
    """What the launches say of a change in time. `verdict` None: look at one more launch.

    `change` 0.05 and `interval` are relative, positive is slower; `sigma` is the standard deviation of a launch, also
    relative; `log_slower`, `log_faster` are evidence against "no change", `log_within` against a slowdown of the
    tolerance, natural logarithms.
    """

    verdict: Verdict | None
    change: float
    interval: tuple[float, float]
    sigma: float
    log_slower: float
    log_faster: float
    log_within: float
    launches: int
    passes: bool = False  # the evidence for PASS suffices, whether or not that is the verdict
    doubt: str = ""  # why a verdict that the numbers alone would give was not given


@dataclass(frozen=True, slots=True)
class Against:
    """The launches of a baseline as a decision needs them, with what occasions differ by.

    `middle` is the mean of `count` launches, each occasion weighted by what it tells; `precision` is sigma^2 over the
    variance of that mean; `squares` the sum of squares around it; `sigma` the deviation of a launch within its
    occasion; `ratio` drift^2 / sigma^2. Without drift these are the mean, the count and the plain sum of squares.
    """

    count: int
    middle: float
    precision: float
    squares: float
    sigma: float
    ratio: float

    @classmethod
    def of(cls, launches: Sequence[float], drift: float = 0.0, occasions: Sequence[int] = ()) -> Against:
        """`drift` is a standard deviation; `occasions` says of each launch when it was made, empty: all at once.

        Generalised least squares: the m launches of an occasion vary by sigma each and share what has a variance of
        drift^2, so their mean weighs m / (1 + m drift^2 / sigma^2).
        """
        parts = grouped(launches, occasions or [0] * len(launches))
        means = [math.fsum(part) / len(part) for part in parts]
        within = math.fsum((one - mean) ** 2 for part, mean in zip(parts, means, strict=True) for one in part)
        free = len(launches) - len(parts)
        # Where no occasion has two launches, nothing tells sigma from drift, and all of their spread is sigma.
        alone = math.fsum((one - math.fsum(launches) / len(launches)) ** 2 for one in launches)
        sigma = max(math.sqrt(within / free if free else alone / (len(launches) - 1)), FLOOR)
        ratio = (drift / sigma) ** 2
        weights = [len(part) / (1.0 + len(part) * ratio) for part in parts]
        middle = math.fsum(w * mean for w, mean in zip(weights, means, strict=True)) / math.fsum(weights)
        between = math.fsum(w * (mean - middle) ** 2 for w, mean in zip(weights, means, strict=True))
        return cls(len(launches), middle, math.fsum(weights), within + between, sigma, ratio)

    @property
    def freedom(self) -> float:
        """Of `squares`."""
        return self.count - 1.0

    def error(self, launches: int, spread: float) -> tuple[float, float]:
        """The standard error of the mean of `launches` of one more occasion, less that of these, and how far it
        reaches: the variance of a launch of another occasion over that of this difference.

        How much launches vary, `spread`, is learnt from both sides; drift is what it is, however much they vary.
        """
        noise = 1.0 / launches + 1.0 / self.count
        whole = 1.0 / launches + self.ratio + 1.0 / self.precision
        # Effects are looked for in units of what a launch differs by from one of another occasion.
        reach = (1.0 + self.ratio) / whole
        return math.sqrt(spread**2 * noise + self.sigma**2 * max(0.0, whole - noise)), reach


def decide(
    baseline: Sequence[float],
    now: Sequence[float],
    settings: Settings,
    *,
    drift: float = 0.0,
    occasions: Sequence[int] = (),
) -> Decision:
    """What is known from the logarithmic times of these launches; their order does not matter.

    REGRESSED: evidence 1/alpha against "no change", and more than half the tolerance slower. IMPROVED: its mirror.
    PASS: evidence 1/beta against a slowdown of the tolerance; what reads faster by more than half of it gets all of its
    launches first, because PASS needs fewer than IMPROVED. All with `drift`, the standard deviation of what
    launches made together share: those of now are of one occasion, those of the baseline of `occasions` (one number a
    launch; empty: one occasion). Raises ValueError on too few or non-finite numbers.
    """
    old, new = np.asarray(baseline, dtype=np.float64), np.asarray(now, dtype=np.float64)
    if old.size < 2 or new.size < 1 or not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise ValueError(f"{old.size} launches of the baseline, {new.size} of now: at least 2 and 1, all finite")
    known = Against.of(old.tolist(), drift, occasions)
    mine = float(((new - new.mean()) ** 2).sum())
    freedom = known.freedom + new.size - 1.0
    spread = max(math.sqrt((known.squares + mine) / freedom), FLOOR)
    if new.size > 1:  # noisier than the baseline: then its own spread counts, which only makes evidence weaker
        spread = max(spread, math.sqrt(mine / (new.size - 1)))
    error, reach = known.error(new.size, spread)
    shift = float(new.mean() - known.middle)
    limit, free = math.log1p(settings.tolerance), math.log1p(settings.allowance)
    # Much noisier than the baseline: then that has nothing to say about how much these launches vary.
    degrees = [freedom]
    if new.size > 1 and mine / (new.size - 1) > NOISIER**2 * max(known.squares / known.freedom, FLOOR**2):
        degrees.append(new.size - 1.0)
    slower, faster, within = (
        min(float(log_e(t, some, reach)) for some in degrees)
        for t in ((shift - free) / error, (-shift - free) / error, (limit - free - shift) / error)
    )
    half = threshold(math.log(2.0 / (1.0 - CONFIDENCE)), degrees[-1], reach) * error
    half = min(half, 700.0)  # few launches, and no limit: exp must stay a number
    interval = (math.expm1(shift - half), math.expm1(shift + half))
    verdict, passes = None, within >= -math.log(settings.beta)
    if new.size >= settings.k_min:
        if slower >= -math.log(settings.alpha) and shift > limit / 2:
            verdict = Verdict.REGRESSED
        elif faster >= -math.log(settings.alpha) and shift < -limit / 2:
            verdict = Verdict.IMPROVED
        elif passes and (shift >= -limit / 2 or (settings.final and new.size >= settings.k_max)):
            verdict = Verdict.PASS
        elif new.size >= settings.k_max:
            verdict = Verdict.INCONCLUSIVE
    return Decision(verdict, math.expm1(shift), interval, spread, slower, faster, within, int(new.size), passes)


def worse(decisions: Sequence[Decision]) -> Decision:
    """Of several series that must all stand, the one that decides: REGRESSED, then what is undecided, then the rest.

    It passes only where the evidence of each suffices.
    """
    order = (Verdict.REGRESSED, Verdict.INCONCLUSIVE, None, Verdict.PASS, Verdict.IMPROVED)
    chosen = min(decisions, key=lambda one: order.index(one.verdict))
    return replace(chosen, passes=all(one.passes for one in decisions))


def decide_exact(baseline: Sequence[float], now: Sequence[float], *, slack: float, k_min: int) -> Decision:
    """For what is not noise: the least of now may not exceed the most of the baseline by more than `slack`."""
    low, high = math.log1p(-slack), math.log1p(slack)
    excess, saving = min(now) - max(baseline), max(now) - min(baseline)
    verdict = None
    if len(now) >= k_min:
        verdict = Verdict.REGRESSED if excess > high else Verdict.IMPROVED if saving < low else Verdict.PASS
    change = math.expm1(float(np.median(now) - np.median(baseline)))
    interval = (min(change, math.expm1(min(now) - max(baseline))), max(change, math.expm1(max(now) - min(baseline))))
    return Decision(verdict, change, interval, slack, 0.0, 0.0, 0.0, len(now))
