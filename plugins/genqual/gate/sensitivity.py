"""Can a slowdown be seen here at all? The gate's own control, from the launches it judges. Pure: NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from genqual.gate.evalues import log_e

SEEN: Final = 100.0  # evidence that a deliberate slowdown must reach
ALARM: Final = 1000.0  # evidence at which halves that are alike count as different


def blind(same: Iterable[float], slowed: Iterable[float], slowdown: float) -> str:
    """Why no verdict may be given on these launches, or nothing.

    `same` are differences of log time between blocks of steps that nothing distinguishes, `slowed` between blocks that
    did `slowdown` (0.05: 5 %) more work and blocks that did not. Half of it is what tells them apart.
    """
    half = math.log1p(slowdown) / 2
    alike, apart = _evidence(same), _evidence(slowed)
    if alike is None or apart is None:
        return "too few blocks of steps to test the gate itself"
    if abs(alike[0]) > half and alike[1] >= math.log(ALARM):
        return f"the gate cannot tell slower from equal on this host: equal blocks of steps differ by {alike[0]:+.1%}"
    if apart[0] <= half or apart[1] < math.log(SEEN):
        return (
            f"the gate cannot detect {slowdown:.0%} on this host: such a slowdown reads {apart[0]:+.1%} with E = "
            f"{math.exp(min(apart[1], 99.0)):.3g}, and must read more than {half:.1%} with E = {SEEN:.0f}"
        )
    return ""


def _evidence(values: Iterable[float]) -> tuple[float, float] | None:
    """Mean and log evidence that it is not zero, in the direction that it has; None with fewer than four values."""
    found = np.asarray(list(values), dtype=np.float64)
    if found.size < 4:
        return None
    mean, spread = float(found.mean()), max(float(found.std(ddof=1)), 1e-6)
    return mean, float(log_e(abs(mean) / spread * math.sqrt(found.size), found.size - 1.0, float(found.size)))
