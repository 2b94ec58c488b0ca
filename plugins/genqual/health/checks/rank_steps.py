"""Ranks of one generation side by side, in turns on each core: the rank, or the core, that takes longer is named."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Case, Json
from genqual.devices.base import Placement
from genqual.engines.base import TokenBatch
from genqual.errors import GenqualError
from genqual.health.checks.base import Node
from genqual.health.finding import Finding, Outcome, Threshold
from genqual.health.outcomes import bad
from genqual.health.stragglers import Standing, rank_standings
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.group_spec import GroupPlan, plan
from genqual.ranks.pool import Pool

ENTRY: Final = "genqual.health.steps_in_rank:step_times"
RUNS, STEPS = 120, 8
MOST_LOOKS: Final = 4  # of RUNS each, while a rank's interval is open; each look has the interval of 99.99 %
_MODEL, _ENGINE = "llama-tiny", "transformers-tp"


class RankSteps:
    """Tensor parallelism over two ranks, one core each, changed from run to run; CPU time of each between its steps."""

    name = "rank_steps"
    summary = "a generation by two ranks in turns on two cores; the rank or the core that takes longer is named"
    required = False
    seconds = 45.0
    stretches = False
    privileges = "none"

    def __init__(self, fault: tuple[str, dict[str, Json]] | None = None) -> None:
        self._fault = fault  # for tests: put in before the run

    def run(self, node: Node, seconds: float) -> Iterator[Finding]:
        """A finding a rank and a core; one for the host where there are no siblings, or no times."""
        if node.cards:
            yield self._silent(Outcome.UNAVAILABLE, "ranks on cards need the device's own clock: not measured yet")
            return
        if len(node.cores) < 2:
            yield self._silent(Outcome.UNAVAILABLE, "one core has no room for two ranks")
            return
        node.say(f"{self.name}: {RUNS} generations by two ranks, up to {MOST_LOOKS} times as many while that is open")
        pool = Pool(1, progress=lambda text: None)
        try:
            generator = Generator(pool, group_plan(node.device, node.cores[:2], node.work / "logs"))
            found = decided(generator, self._fault, seconds)
        except (GenqualError, GroupLost) as error:
            yield self._silent(Outcome.UNKNOWN, f"{type(error).__name__}: {str(error)[:400]}")
            return
        finally:
            pool.close_all()
        if isinstance(found, str):
            yield self._silent(Outcome.UNAVAILABLE, found)
            return
        ranks, places, runs = found
        cores = [replace(one, entity=f"core {core}") for core, one in zip(node.cores, places, strict=False)]
        for one in [*ranks, *cores]:
            source = "interval of 99.99 % over generations"
            limit = Threshold(value=one.least, unit="slower than its sibling", source=source)
            said = f"{one.slower:+.1%} ({one.low:+.1%} to {one.high:+.1%}), {runs} runs"
            if one.is_straggler:
                slow = "slow" if one in ranks else "slow_core"
                yield bad(f"{self.name}.{slow}", one.entity, said, signal=one.slower, threshold=limit)
            else:
                ok = Finding(check=self.name, entity=one.entity, outcome=Outcome.OK, signal=one.slower, threshold=limit)
                yield ok.model_copy(update={"evidence": said})

    def _silent(self, outcome: Outcome, why: str) -> Finding:
        return Finding(check=self.name, entity="host", outcome=outcome, evidence=why)


def decided(
    generator: Generator, fault: tuple[str, dict[str, Json]] | None = None, seconds: float = math.inf
) -> tuple[list[Standing], list[Standing], int] | str:
    """Ranks, their places, and over how many generations; or why there are none.

    RUNS generations, and again while a rank's interval holds both "named" and "not named": at most MOST_LOOKS times,
    and no more than fit into `seconds` by what the last ones took.
    """
    began = time.monotonic()
    times = measured(generator, fault)
    for look in range(1, MOST_LOOKS + 1):
        if isinstance(times, str):
            return times
        ranks, places = rank_standings(times)
        took = time.monotonic() - began
        if look == MOST_LOOKS or not any(one.is_open for one in ranks) or took * (look + 1) / look > seconds:
            break
        more = measured(generator, fault)
        times = more if isinstance(more, str) else [np.concatenate(both) for both in zip(times, more, strict=True)]
    return ranks, places, len(times[0])


def measured(
    generator: Generator, fault: tuple[str, dict[str, Json]] | None = None, runs: int = RUNS
) -> list[NDArray[np.float64]] | str:
    """CPU seconds (runs, steps) of each rank of the same generations, who change places, or why there are none."""
    batch = TokenBatch.of([[1 + column % 200 for column in range(12)]] * 4)
    arrays = {"ids": batch.ids, "mask": batch.mask}
    cores: Json = [list(one) for one in generator.plan.placement.cores]
    generator.invoke(ENTRY, {"steps": STEPS, "runs": 2, "cores": cores}, arrays)  # the first page in and allocate
    params: dict[str, Json] = {"steps": STEPS, "runs": runs, "cores": cores}
    if fault is None:
        replies = generator.invoke(ENTRY, params, arrays)
    else:
        with generator.fault(fault[0], **fault[1]):
            replies = generator.invoke(ENTRY, params, arrays)
    missing = [str(reply.value["why_not"]) for reply in replies if "why_not" in reply.value]
    return missing[0] if missing else [reply.arrays["cpu_s"] for reply in replies]


def group_plan(device: str, cores: tuple[int, ...], logs: Path) -> GroupPlan:
    """Two ranks of tensor parallelism, one on each of `cores`."""
    lease = tuple(f"cpu:{core}" for core in cores)
    placement = Placement(env=tuple({} for _ in cores), cores=tuple((core,) for core in cores), lease=lease)
    return plan(Case(device, _ENGINE, _MODEL, "fp32", len(cores), 1), logs, placement=placement)
