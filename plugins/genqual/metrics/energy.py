"""Joules of a window from a counter and from sampled power, which must agree. Pure: no clock, no device, no thread.

Nothing is subtracted for what the hardware draws while it idles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from genqual.devices.energy import Reading
from genqual.devices.rapl import MOST_WATTS

AGREE: Final = 0.02
"""Share by which counter and integral may differ."""
POWER_S: Final = 0.1  # between two samples of power
COUNTER_S: Final = 10.0  # between two samples where there is a counter alone: only against its wraps
# Assumed, not measured here: RAPL moves about once a millisecond, a card's counter some ten times a second. With one
# source a window is long enough where one update at each end is not more than 2 % of it.
SHORTEST: Final = {"counter that wraps": 0.1, "other": 10.0}

Samples = Sequence[tuple[float, Reading]]


@dataclass(frozen=True, slots=True)
class Used:
    """Joules of a window, and what a reader must know; `joules` None: `note` says why there is no number."""

    joules: float | None
    note: str

    def __post_init__(self) -> None:
        if self.joules is None and not self.note:
            raise ValueError("no joules and no reason")


def every_s(first: Reading) -> float:
    """Seconds between two samples, by what the first one has: power has to be sampled, a counter only to be watched."""
    return POWER_S if first.watts else COUNTER_S


def used(samples: Samples) -> Used:
    """Joules between the first and the last sample. Where counter and sampled power are both there, they must agree.

    A number with one source is told with that; a part that vanished, a counter that was reset or did not move, and two
    sources further than `AGREE` apart leave no number.
    """
    silent = next((said.why_not for _, said in samples if said.why_not), "")
    if silent:
        return Used(None, f"unavailable: {silent}")
    if len(samples) < 2:
        return Used(None, "unavailable: fewer than two readings")
    parts = _parts(samples[0][1])
    if not parts:
        return Used(None, "unavailable: no counter of energy and no sensor of power")
    if any(_parts(said) != parts for _, said in samples):
        return Used(None, "invalid: a part or one of its sources appeared or vanished within the window")
    seconds = samples[-1][0] - samples[0][0]
    counted, integral = _counted(samples), _integral(samples)
    about = f"{', '.join(sorted({name for name, _ in parts}))}; {seconds:.2f} s; idle power is not subtracted"
    if isinstance(counted, str):
        return Used(None, f"invalid: {counted}")
    if counted is not None and integral is not None:
        apart = abs(integral / counted - 1.0)
        both = f"counter {counted:.4g} J, sampled power {integral:.4g} J, {apart:.1%} apart"
        if not apart <= AGREE:
            return Used(None, f"invalid: {both}; at most {AGREE:.0%} is allowed")
        return Used(counted, f"two sources agree: {both}; {about}")
    value = counted if counted is not None else integral
    if value is None:
        return Used(None, "invalid: some parts have a counter only and others a sensor only")
    wraps = all(name in samples[0][1].wraps for name, _ in parts)
    shortest = SHORTEST["counter that wraps" if wraps else "other"]
    if seconds < shortest:
        return Used(None, f"invalid: {seconds:.2f} s with one source; below {shortest:g} s its updates are too coarse")
    if not (math.isfinite(value) and value > 0.0):
        return Used(None, f"invalid: {value:g} J in {seconds:.2f} s")
    return Used(value, f"one source: {'counter' if counted is not None else 'sampled power'}, not confirmed; {about}")


def _parts(said: Reading) -> frozenset[tuple[str, str]]:
    return frozenset([(name, "counter") for name in said.joules] + [(name, "power") for name in said.watts])


def _counted(samples: Samples) -> float | str | None:
    """Joules of all parts by their counters; None where not every part has one, a text where one cannot be trusted."""
    first = samples[0][1]
    if not first.joules or set(first.watts) - set(first.joules):
        return None
    total = 0.0
    for name in first.joules:
        own = 0.0
        for (then, before), (now, after) in pairwise(samples):
            step, wrap = after.joules[name] - before.joules[name], before.wraps.get(name)
            if wrap is not None and (now - then) * MOST_WATTS > wrap:
                return f"{name}: {now - then:.0f} s between two readings; its counter may have wrapped more than once"
            if step < 0.0 and wrap is None:
                return f"{name}: its counter was reset within the window"
            own += step if step >= 0.0 or wrap is None else step + wrap
        if own <= 0.0:
            return f"{name}: its counter did not move"
        total += own
    return total


def _integral(samples: Samples) -> float | None:
    """Joules of all parts by sampled power, trapezoid by trapezoid; None where not every part has a sensor."""
    first = samples[0][1]
    if not first.watts or set(first.joules) - set(first.watts):
        return None
    return sum(
        (now - then) * (before.watts[name] + after.watts[name]) / 2
        for (then, before), (now, after) in pairwise(samples)
        for name in first.watts
    )
