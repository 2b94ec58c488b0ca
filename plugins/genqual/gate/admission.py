"""May these launches be compared with that baseline? Pure: facts in, reasons out; no device is asked here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from genqual.cases import Json
from genqual.gate.baseline_file import Range

UnderTest = Literal["engine", "driver", "kernels", "node"]
UNDER_TEST: Final = ("engine", "driver", "kernels", "node")

# What identity is made of, and which question frees which part of it. An engine's own version is always free: it is
# what changes between two runs. torch is not, under `engine`: the reference step runs on it and would hide its change.
_FREE: Final[Mapping[str, frozenset[str]]] = {
    "engine": frozenset(),
    "driver": frozenset({"driver", "firmware", "kernel"}),
    "kernels": frozenset({"torch"}),
    "node": frozenset({"driver", "firmware", "kernel", "microcode", "governor"}),
}
QUIET_OTHERS: Final = 0.10  # share of the host that others may use where the host itself is under test
QUIET_STEAL: Final = 0.02
QUIET_SPREAD: Final = 0.07  # log: by how much half of the reference steps may take longer than the fastest twentieth


def identity(facts: Mapping[str, Json], versions: Mapping[str, str], python: str) -> dict[str, Json]:
    """What must be the same for two times to be compared, from a device's facts and the software's versions.

    A CPU has no driver, and its kernel counts up to the minor version: distributions patch it every week.
    """
    kernel = facts.get("kernel")
    short = ".".join(kernel.split("-")[0].split(".")[:2]) if isinstance(kernel, str) else None
    return {
        "driver": facts.get("drivers"),  # a CPU has none
        "firmware": facts.get("firmware"),
        "kernel": short,
        "microcode": facts.get("microcode"),
        "governor": facts.get("governor"),
        "torch": versions.get("torch"),
        "python": ".".join(python.split(".")[:2]),
    }


def identity_mismatches(then: Mapping[str, Json], now: Mapping[str, Json], under_test: str) -> list[str]:
    """Why a run is no candidate for a baseline: what is not under test and differs, each with both values."""
    free = _FREE[under_test]
    return [
        f"{name} was {then.get(name)} and is {now.get(name)}"
        + (f" (judge it with --under-test {_question(name)})" if _question(name) else "")
        for name in sorted({*then, *now})
        if name not in free and then.get(name) != now.get(name)
    ]


def _question(name: str) -> str:
    return next((question for question, free in _FREE.items() if name in free), "")


def ranges(probes: Iterable[Mapping[str, float]]) -> dict[str, Range]:
    """What a later launch's probes must lie in, from those of the baseline: their span, widened to fault-free noise."""
    seen: dict[str, list[float]] = {}
    for one in probes:
        for name, value in one.items():
            seen.setdefault(name, []).append(value)
    made = {}
    for name, values in sorted(seen.items()):
        low, high = min(values), max(values)
        if (
            name == "cpu_share"
        ):  # lower: somebody else had the cores, and z rises: by 3 % at a share of 0.6 (docs/gate-theory.md)
            made[name] = Range(low=round(max(0.0, low - 0.15), 4), high=round(high + 0.25, 4))
        elif name == "frozen_log_s":  # a host half or twice as fast is another host, whatever it calls itself
            middle = statistics.median(values)
            made[name] = Range(low=round(min(low, middle - 0.92), 4), high=round(max(high, middle + 0.92), 4))
        elif name == "steal_share":
            made[name] = Range(low=0.0, high=round(max(0.10, 2 * high), 4))
    return made


def refused(probes: Mapping[str, float], admitted: Mapping[str, Range], *, under_test: str) -> list[str]:
    """Why one launch may not be judged: a probe out of range, a host that slept or throttled, or was noisy."""
    found = [
        f"{name} {probes[name]:.3g} is not in {allowed.low:.3g} to {allowed.high:.3g}"
        for name, allowed in sorted(admitted.items())
        # Under the other questions the reference step is judged itself.
        if name in probes and not (name == "frozen_log_s" and under_test != "engine")
        if not allowed.low <= probes[name] <= allowed.high
    ]
    if probes.get("suspended_s", 0.0) > 0.5:
        found.append(f"the host was suspended for {probes['suspended_s']:.0f} s")
    if probes.get("throttled", 0.0) > 0:
        found.append(f"the device throttled {probes['throttled']:.0f} times")
    if under_test != "engine":
        for name, most in (("others_share", QUIET_OTHERS), ("steal_share", QUIET_STEAL)):
            if probes.get(name, 0.0) > most:
                found.append(f"noisy host: {name} {probes[name]:.0%} is above {most:.0%}")
    return found


def noisy(frozen: float | None, floor: float | None) -> list[str]:
    """Why a launch's clock says that others disturbed the host, from the logarithms of its reference steps' median and
    of its fastest twentieth; nothing where they were not kept. It is asked where the host itself is under test.
    """
    if frozen is None or floor is None or frozen - floor <= QUIET_SPREAD:
        return []
    longer = f"{math.expm1(frozen - floor):.0%} longer than the fastest, above {math.expm1(QUIET_SPREAD):.0%}"
    return [f"noisy host: half of the reference steps took {longer}"]


def disturbance(before: Mapping[str, Json], after: Mapping[str, Json], own_cpu_s: float) -> dict[str, float]:
    """How much of the host others had between two readings of a device's conditions; nothing where it is not told."""

    def grew(name: str) -> float | None:
        a, b = before.get(name), after.get(name)
        if isinstance(a, bool | str) or isinstance(b, bool | str) or not isinstance(a, int | float):
            return None
        return float(b) - float(a) if isinstance(b, int | float) else None

    found = {}
    total, busy, steal = grew("ticks_total"), grew("ticks_busy"), grew("ticks_steal")
    rate = after.get("ticks_per_s")
    if total and isinstance(rate, int | float):
        if steal is not None:
            found["steal_share"] = steal / total
        if busy is not None:
            found["others_share"] = max(0.0, busy - own_cpu_s * rate) / total
    throttled = [count for name in ("throttle_core", "throttle_package") if (count := grew(name)) is not None]
    cards = after.get("cards")
    if isinstance(cards, list):
        throttled += [float(_slowed(card)) for card in cards]
    if throttled:
        found["throttled"] = float(sum(throttled))
    return found


def _slowed(card: Json) -> bool:
    """Whether a card says that it slows itself down for heat or power, not because it is idle or was told to."""
    reasons = card.get("throttle_reasons") if isinstance(card, dict) else None
    return isinstance(reasons, list) and any("thermal" in str(one) or "slowdown" in str(one) for one in reasons)


def said(reasons: Sequence[str]) -> str:
    """Reasons as one clause, each once."""
    return "; ".join(dict.fromkeys(reasons))
