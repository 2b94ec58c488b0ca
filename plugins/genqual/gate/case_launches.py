"""Fresh launches until the gate has decided: each is a new rank group, and the items of a case share one list."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from genqual.cases import Case, Json, Workload
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import EngineFailed, OutOfMemory
from genqual.gate import admission, launch_summary
from genqual.gate.baseline_file import Entry, Launch, Subject
from genqual.gate.history import Past, build_here, control_of
from genqual.gate.launch_plan import SECTIONS, SLOW_EVERY, LaunchJob, frozen_source
from genqual.gate.pairing import packages_of
from genqual.metrics.compute import BadClock
from genqual.metrics.registry import is_exact, rule
from genqual.models.prompts import synthetic_rows
from genqual.ranks.client import Generator
from genqual.ranks.connections import Reply
from genqual.ranks.errors import GroupLost
from genqual.records.software import versions

ENTRY: Final = "genqual.gate.rank_launch:launch"
STARTUP_S: Final = 2.0  # of a rank, before it loads; only the forecast of a gate's time uses it
_COLD_BYTES: Final = 32 << 20  # fetched from storage while loading: the page cache was not warm
_STEP_S: Final = 0.03  # of a candidate and a reference step together, for the same forecast


@dataclass(frozen=True, slots=True)
class Taken:
    """One launch: what it measured by metric, what disturbed it, and why it counts for nothing, if so."""

    metrics: Mapping[str, Launch]
    probes: Mapping[str, float]
    hook: str = "steps"
    wall_s: float = 0.0
    failed: str = ""
    cold: bool = False
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # metric -> why this launch could not measure it

    def why_not(self, metric: str, entry: Entry | None, under_test: str) -> list[str]:
        """Why this launch may not be judged for `metric`."""
        if self.failed:
            return [self.failed]
        if metric in self.unmeasured:
            return [self.unmeasured[metric]]
        found = admission.refused(self.probes, entry.admission if entry else {}, under_test=under_test)
        if under_test != "engine" and metric in self.metrics:
            found += admission.noisy(self.metrics[metric].frozen, self.metrics[metric].frozen_floor)
        if metric in self.metrics and SECTIONS[metric] == "load":
            found += self._loads(metric, entry)
        if entry is not None and entry.frozen is not None and self.hook != entry.hook:
            found.append(f"alternated by {self.hook}, the baseline by {entry.hook}")
        return found

    def _loads(self, metric: str, entry: Entry | None) -> list[str]:
        """Why the load time of this launch says nothing; who loads again does so with a warm page cache."""
        again = self.metrics[metric].steps > 1
        found = []
        if self.cold and not again:
            found.append("the page cache was cold: weights came from storage, and the baseline's did not")
        if entry is not None and again != (entry.launches[0].steps > 1):
            how = ("loaded once", "loaded again and again")
            found.append(f"{how[again]}, and the baseline's launches {how[not again]}; `genqual rebase` measures anew")
        return found


@dataclass
class CaseLaunches:
    """The launches of one case, extended as needed. `job` may grow: what an older launch lacks, it has no say in."""

    generator: Generator
    job: LaunchJob
    taken: list[Taken] = field(default_factory=list)
    seen: Callable[[Sequence[Reply]], object] | None = None  # is given what the ranks sent, every step of it
    weights: tuple[str, ...] = ()  # their hashes by rank, of the last launch that loaded

    @property
    def forecast_s(self) -> float:
        """Seconds that the next launch is expected to take."""
        if self.taken:
            return sum(one.wall_s for one in self.taken) / len(self.taken)
        steps = sum(
            count * (1 if section == "prefill" else self.job.workloads[section].new_tokens)
            for section, count in self.job.calls.items()
        )
        return STARTUP_S + max(rank.load_s for rank in self.generator.loaded) + steps * _STEP_S

    def extend(self) -> Taken:
        """One more launch, in fresh processes. A launch that dies is one that failed, with the cause."""
        generator, case = self.generator, self.generator.case
        conditions = devices()[case.device].conditions
        before, asleep, start = conditions(), _asleep_s(), time.monotonic()
        try:
            generator.restart()
            with generator.undisturbed():
                replies = self._invoke()
            loads = [rank.loading_s for rank in generator.loaded]
            self.weights = tuple(rank.weight_hash for rank in generator.loaded)
            after = conditions()
            if {reply.value["frozen_source"] for reply in replies} != {frozen_source()}:
                raise EngineFailed(f"{case}: this build's reference step is another, so its times cannot be compared")
            unmeasured = self._unmeasured(replies, loads)
            metrics = self._metrics(replies, loads, unmeasured)
            if self.seen is not None:
                self.seen(replies)
        except GroupLost as error:
            made = Taken({}, {}, failed=f"launch {len(self.taken) + 1} died: {str(error).splitlines()[0]}")
        except (BadClock, EngineFailed, OutOfMemory) as error:
            made = Taken({}, {}, failed=f"launch {len(self.taken) + 1}: {str(error).splitlines()[0]}")
        else:
            probes = admission.disturbance(before, after, sum(float(reply.value["cpu_s"]) for reply in replies))
            shares = [float(reply.value["cpu_share"]) for reply in replies if "cpu_share" in reply.value]
            if shares:
                probes["cpu_share"] = min(shares)
            # The decode's reference step where there is one: its clock is the one that probes the host.
            clocks = [metrics[name].frozen for name in ("tpot", "tokens_per_s", "ttft") if name in metrics]
            if clocks and clocks[0] is not None:
                probes["frozen_log_s"] = clocks[0]
            probes["suspended_s"] = _asleep_s() - asleep
            stored = [reply.value["storage_bytes"] for reply in replies]
            made = Taken(
                metrics,
                probes,
                hook=str(replies[0].value["hook"]),
                wall_s=time.monotonic() - start,
                cold=any(count is not None and count > _COLD_BYTES for count in stored),
                unmeasured=unmeasured,
            )
        self.taken.append(made)
        return made

    def _invoke(self) -> Sequence[Reply]:
        job, generator = self.job, self.generator
        vocabulary = generator.loaded[0].vocabulary
        rows = {
            section: np.array(synthetic_rows(vocabulary, w.batch, w.input_length, seed=0), dtype=np.int64)
            for section, w in job.workloads.items()
            if section != "load"
        }
        params: dict[str, Json] = {
            "sections": list(job.workloads),
            "shape": job.shape.model_dump(),
            "new_tokens": max(w.new_tokens for w in job.workloads.values()),
            "calls": dict(job.calls),
            "slowdown": job.slowdown,
            "threads": generator.plan.placement.threads,
        }
        if engine(generator.case.engine).tier == "tokens":
            # Its cache outlives a launch: the next one may not send what this one did.
            fresh = generator.prompts
            numbers: list[Json] = [*fresh.take(self._requests())]
            params["fresh"] = {"vocabulary": vocabulary, "seed": fresh.seed, "numbers": numbers}
        return generator.invoke(ENTRY, params, rows)

    def _unmeasured(self, replies: Sequence[Reply], loads: Sequence[float]) -> dict[str, str]:
        """By metric, what the ranks could not measure, and why."""
        found = {}
        unread = [str(reply.value["load_unread"]) for reply in replies if "load_unread" in reply.value]
        if "load" in self.job.workloads and (unread or max(loads) <= 0.0):
            found["load_s"] = unread[0] if unread else "loading was not seen from here"
        if "memory" in self.job.workloads and max(reply.value["peak_bytes"] for reply in replies) <= 0:
            found["peak_memory"] = "memory was not read in this launch"
        return found

    def _requests(self) -> int:
        """How many prompts a launch sends at most, of an engine without a hook between steps; see `alternate`."""
        calls = self.job.calls
        return sum(
            workload.batch * (1 + SLOW_EVERY * calls.get(section, 0))
            for section, workload in self.job.workloads.items()
        )

    def _metrics(
        self, replies: Sequence[Reply], loads: Sequence[float], unmeasured: Mapping[str, str]
    ) -> dict[str, Launch]:
        made: dict[str, Launch] = {}
        for metric, section in SECTIONS.items():
            if section not in self.job.workloads or metric in unmeasured:
                continue
            if section == "load" and all("load_times" in reply.arrays for reply in replies):
                made[metric] = launch_summary.loads_of([reply.arrays["load_times"] for reply in replies])
            elif section == "load":
                made[metric] = launch_summary.single(max(loads), max(float(r.value["plain_read_s"]) for r in replies))
            elif section == "memory":
                made[metric] = launch_summary.single(float(max(r.value["peak_bytes"] for r in replies)), None)
            else:
                times = [reply.arrays[f"{section}_times"] for reply in replies]
                shares = [float(reply.value["cpu_share"]) for reply in replies if "cpu_share" in reply.value]
                share = min(shares, default=None)
                made[metric] = launch_summary.launch_of(times, replies[0].arrays[f"{section}_marks"], cpu_share=share)
        return made


def subject_of(case: Case, weights: Sequence[str], workload: Workload, metric: str) -> Subject:
    """What a baseline of this metric is about."""
    return Subject(
        metric=metric,
        engine=case.engine,
        dtype=case.dtype,
        ranks=case.ranks,
        cores_per_rank=case.cores_per_rank,
        weights=tuple(weights),
        batch=workload.batch,
        input_length=workload.input_length,
        new_tokens=workload.new_tokens,
    )


def identity_here(device: str) -> dict[str, Json]:
    """What this host and its software must share with those of a baseline."""
    facts: dict[str, Any] = devices()[device].identity().facts
    return admission.identity(facts, versions(("torch",)), sys.version.split()[0])


def disturbed_by_xdist() -> str:
    """Why nothing may be timed in this process, or nothing."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return f"{count} xdist workers share this device; run the gate without -n" if count > 1 else ""


def forecast(least: int, most: int, each_s: float) -> str:
    """What the gate is about to cost, in words."""
    return f"{least} to {most} launches of about {each_s:.0f} s each: {least * each_s:.0f} to {most * each_s:.0f} s"


def evidence(log_evidence: float) -> str:
    """E as a person reads it; beyond 1e99 only that."""
    return f"{math.exp(log_evidence):.3g}" if log_evidence < 228 else "1e99"


def _asleep_s() -> float:
    """Seconds that this host has been suspended since it started; 0 where no clock tells."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is None:
        return 0.0
    return time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)


def past_of(case: Case, weights: Sequence[str], job: LaunchJob, taken: Taken, run: str) -> list[Past]:
    """A line for each metric that this launch measured undisturbed, and whose launches vary at all."""
    now, identity = time.time(), identity_here(case.device)
    build = build_here(packages_of(case))
    found = []
    for metric, launch in taken.metrics.items():
        if is_exact(metric) or taken.why_not(metric, None, "engine"):
            continue
        shape: Json = job.shape.model_dump() if rule(metric).stepped else None
        subject = subject_of(case, weights, job.workloads[SECTIONS[metric]], metric)
        control = control_of(identity, frozen_source(), shape, taken.hook, launch)
        found.append(Past(now, run, subject.key, control, build, launch))
    return found
