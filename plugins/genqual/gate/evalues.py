"""The evidence of a two-sample safe t-test: likelihood ratios of the non-central t. Pure: NumPy only.

Source of the mathematics: docs/gate-theory.md, "The e-process".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

EFFECTS: Final = (1.0, 1.7, 2.9, 5.0, 8.5)
"""The prior: shifts in standard deviations of a launch, equally likely. From 5 % at a sigma of 0.6 % to one of 5 %."""

_NODES: Final = np.linspace(-9.0, 9.0, 73)  # in widths of the integrand


def log_e(t: ArrayLike, freedom: ArrayLike, size: ArrayLike, effects: tuple[float, ...] = EFFECTS) -> Array:
    """Natural logarithm of the evidence for a shift above zero, against none, in the statistic `t`.

    `freedom` are its degrees, at least 1 (relative error 3e-3; from 3 on 3e-5, from 7 on 1e-8); `size` is
    1 / (1/m + 1/n); with drift, `decision.decide` says what it is. All broadcast together. Rises with `t`.
    """
    t, freedom, size = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (t, freedom, size)))
    logs = np.stack([_log_ratio(t, freedom, np.sqrt(size) * effect) for effect in effects])
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.mean(np.exp(logs - top), axis=0)), dtype=np.float64)


def _log_ratio(t: Array, freedom: Array, shift: Array) -> Array:
    """log of the density of t with non-centrality `shift` over that with none."""
    spread = t * t + freedom
    outside = -shift * shift * freedom / (2.0 * spread)
    return np.asarray(outside + _log_moment(shift * t / np.sqrt(spread), freedom) - _log_moment(0.0 * t, freedom))


def _log_moment(centre: Array, power: Array) -> Array:
    """log of the integral over y > 0 of y^power exp(-(y - centre)^2 / 2)."""
    peak = (centre + np.sqrt(centre * centre + 4.0 * power)) / 2.0
    width = 1.0 / np.sqrt(1.0 + power / (peak * peak))
    y = peak[..., None] + width[..., None] * _NODES
    inside = y > 0.0
    at = power[..., None] * np.log(np.where(inside, y, 1.0)) - (y - centre[..., None]) ** 2 / 2.0
    top = power * np.log(peak) - (peak - centre) ** 2 / 2.0
    values = np.where(inside, np.exp(at - top[..., None]), 0.0)
    step = _NODES[1] - _NODES[0]
    return np.asarray(top + np.log(values.sum(axis=-1) * step * width))


def threshold(log_evidence: float, freedom: float, size: float) -> float:
    """The smallest t whose evidence is `log_evidence` (above zero); by bisection, because evidence rises with t."""
    low, high = 0.0, 1.0
    while log_e(high, freedom, size) < log_evidence:
        high *= 2.0
        if high > 1e6:  # evidence is bounded where freedom is small: no t is enough
            return float("inf")
    while high - low > 1e-7 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if log_e(middle, freedom, size) < log_evidence else (low, middle)
    return high
