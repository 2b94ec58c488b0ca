"""Soak: the same generation for a long time: memory that grows, steps that get slower, a processor too hot."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.devices.climate import Climate, climate
from genqual.devices.sampling import sampled
from genqual.engines.base import TokenBatch
from genqual.errors import GenqualError
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.group import findings_on_each_card, group_on
from genqual.health.outcomes import bad
from genqual.health.trend import Trend, trend
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost

ENTRY: Final = "genqual.health.soak_in_rank:again"
MODEL: Final = "llama-30m"
PROMPT, STEPS = 32, 33
MINUTES: Final = 15
LEAK_BYTES: Final = 8 << 20
"""Growth that is no leak: what an allocator keeps. A kilobyte a token passes it within two minutes on two cores."""
SLOWER: Final = 0.05
_EVERY_S: Final = 5.0
_CALL_S: Final = 20.0  # of one call to the ranks, so that the end of the time is met


@dataclass(frozen=True, slots=True)
class Soaked:
    """What was measured: times and memory by rank, and the climate by the moment; `share` of a core it took to read."""

    ranks: Sequence[dict[str, NDArray[np.float64]]]
    climate: Sequence[tuple[float, Climate]]
    share: float


class Soak:
    """llama-30m in fp32 on all cores as one rank, batch 1; nothing runs between two generations but a reading."""

    name = "soak"
    summary = "one generation for a long time: memory that grows, steps that get slower, heat and clocks"
    required = False
    seconds = MINUTES * 60.0
    stretches = True
    privileges = "none"

    def __init__(self, fault: tuple[str, dict[str, Json]] | None = None) -> None:
        self._fault = fault  # for tests: put in before the run

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        """Two findings a rank, of memory and latency; one of heat and one of clocks. Of each card, where there are."""
        if len(node.cards) > 1:
            told = set[str]()  # heat and clocks are the host's: once
            for finding in findings_on_each_card(self, node, lambda card: self.run(card, seconds)):
                if finding.entity not in ("heat", "clocks") or finding.entity not in told:
                    yield finding
                told.add(finding.entity)
            return
        node.say(f"{self.name}: {MODEL} for {seconds / 60:.0f} minutes")
        try:
            with group_on(node, "transformers", MODEL) as generator:
                measurement = measured(generator, node, seconds, self._fault)
        except (GenqualError, GroupLost) as error:
            yield bad(f"{self.name}.lost", node.entity, f"{type(error).__name__}: {str(error)[:400]}")
            return
        for rank, one in enumerate(measurement.ranks):
            entity = f"{node.entity} rank {rank}" if node.cards else f"rank {rank}"
            yield self._memory(entity, one["read_s"], one["held_bytes"])
            yield self._latency(entity, one["at_s"], one["tpot_s"])
        yield self._heat(measurement)
        yield self._clocks(measurement)

    def _memory(self, entity: str, at_s: NDArray[np.float64], held: NDArray[np.float64]) -> Finding:
        grown = _trend(at_s, held)
        entity = f"{entity}, memory"
        limit = Threshold(value=LEAK_BYTES / 2**20, unit="MiB that it surely grew", source=_SOURCE)
        if isinstance(grown, str):
            return self._silent(entity, Outcome.UNKNOWN, grown)
        mib = [one / 2**20 for one in (grown.change, grown.low, grown.high)]
        minutes = (at_s[-1] - at_s[0]) / 60
        said = f"{mib[0]:+.1f} MiB ({mib[1]:+.1f} to {mib[2]:+.1f}) in {minutes:.0f} minutes, {len(at_s)} readings"
        if grown.low > LEAK_BYTES:
            return bad(f"{self.name}.leak", entity, said, signal=mib[1], threshold=limit)
        return Finding(check=self.name, entity=entity, outcome=Outcome.OK, signal=mib[1], threshold=limit,
                       evidence=said)  # fmt: skip

    def _latency(self, entity: str, at_s: NDArray[np.float64], tpot_s: NDArray[np.float64]) -> Finding:
        more = _trend(at_s, np.log(tpot_s))
        entity, limit = f"{entity}, latency", Threshold(value=SLOWER, unit="TPOT surely longer", source=_SOURCE)
        if isinstance(more, str):
            return self._silent(entity, Outcome.UNKNOWN, more)
        change, low, high = (math.expm1(one) for one in (more.change, more.low, more.high))
        said = (
            f"TPOT {math.exp(more.first) * 1e3:.2f} ms, {change:+.1%} ({low:+.1%} to {high:+.1%}) at the end, "
            f"{len(at_s)} generations"
        )
        if low > SLOWER:
            return bad(f"{self.name}.slower", entity, said, signal=low, threshold=limit)
        return Finding(check=self.name, entity=entity, outcome=Outcome.OK, signal=low, threshold=limit, evidence=said)

    def _heat(self, found: Soaked) -> Finding:
        heat = [(one.degrees, name, one.critical) for _, now in found.climate for name, one in now.heat.items()]
        if not heat:
            return self._silent("heat", Outcome.UNAVAILABLE, "this kernel tells of no sensor (hwmon)")
        margin, degrees, name, critical = min(
            (math.inf if critical is None else critical - degrees, degrees, name, critical)
            for degrees, name, critical in heat
        )
        hottest = max(heat, key=lambda one: one[0])
        said = f"hottest: {hottest[1]}, {hottest[0]:.0f} C; {len(found.climate)} readings, {found.share:.2%} of a core"
        if critical is None:
            return Finding(check=self.name, entity="heat", outcome=Outcome.OK, evidence=f"{said}; no limit is told")
        limit = Threshold(value=critical, unit="degrees C", source="the sensor's own limit (crit)")
        if margin <= 0.0:
            return bad(f"{self.name}.hot", "heat", f"{name}: {degrees:.0f} C of {critical:.0f}; {said}",
                       signal=degrees, threshold=limit)  # fmt: skip
        return Finding(check=self.name, entity="heat", outcome=Outcome.OK, signal=degrees, threshold=limit,
                       evidence=said)  # fmt: skip

    def _clocks(self, found: Soaked) -> Finding:
        means = np.array([np.mean(list(now.mhz.values())) for _, now in found.climate if now.mhz])
        if not len(means):
            return self._silent("clocks", Outcome.UNAVAILABLE, "this kernel tells of no clocks (cpufreq)")
        said = f"mean over cores {np.median(means):.0f} MHz, from {means.min():.0f} to {means.max():.0f}"
        return Finding(check=self.name, entity="clocks", outcome=Outcome.OK, evidence=said)

    def _silent(self, entity: str, outcome: Outcome, why: str) -> Finding:
        return Finding(check=self.name, entity=entity, outcome=outcome, evidence=why)


_SOURCE: Final = "docs/node.md; interval of 99.99 % over parts of the time"


def _trend(at_s: NDArray[np.float64], values: NDArray[np.float64]) -> Trend | str:
    """The trend, or why there is none. What grows while a rank warms up is in few parts of the time, and moves none."""
    try:
        return trend(at_s, values)
    except ValueError as why:
        return f"too little to tell a trend: {why}"


def measured(
    generator: Generator, node: Node, seconds: float, fault: tuple[str, dict[str, Json]] | None = None
) -> Soaked:
    """Generations of every rank for about `seconds`, and the climate every five."""
    end, cost = time.monotonic() + seconds, [0.0]

    def now() -> Climate:
        begun = time.thread_time()
        said = climate(node.root)
        cost[0] += time.thread_time() - begun
        return said

    with sampled(now, lambda first: _EVERY_S) as seen:
        if fault is None:
            ranks = _until(generator, end)
        else:
            with generator.fault(fault[0], **fault[1]):
                ranks = _until(generator, end)
    return Soaked(ranks, seen, cost[0] / seconds)


def _until(generator: Generator, end: float) -> list[dict[str, NDArray[np.float64]]]:
    """Generations until `end`, two calls at least; every rank makes as many."""
    batch = TokenBatch.of([[1 + column % 200 for column in range(PROMPT)]])
    arrays: dict[str, Any] = {"ids": batch.ids, "mask": batch.mask}
    parts: list[list[dict[str, NDArray[np.float64]]]] = [[] for _ in generator.loaded]
    runs = 2
    while True:
        begun = time.monotonic()
        # What warming up and loading freed is given back once, after the first call; later it would slow generations.
        how: dict[str, Json] = {"steps": STEPS, "runs": runs, "trim": len(parts[0]) == 1}
        for part, reply in zip(parts, generator.invoke(ENTRY, how, arrays), strict=True):
            part.append(dict(reply.arrays))
        now = time.monotonic()
        runs = int(min(end - now, _CALL_S) / ((now - begun) / runs))
        if runs < 1:
            return [{name: np.concatenate([one[name] for one in part]) for name in part[0]} for part in parts]
