"""The gate as a run has it: what is asked, which baseline answers, when to launch again, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from genqual.cases import Case, Workload
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.gate import admission, baseline_file, sensitivity
from genqual.gate import decision as gate
from genqual.gate.baseline_file import BaselineFile, Entry, Launch
from genqual.gate.batch_variance import HOURS, Series, apart
from genqual.gate.case_launches import (
    CaseLaunches,
    Taken,
    disturbed_by_xdist,
    evidence,
    forecast,
    identity_here,
    subject_of,
)
from genqual.gate.decision import GATED, Decision, Settings
from genqual.gate.launch_plan import SECTIONS, LaunchJob, frozen_shape, frozen_source
from genqual.gate.verdict import GateResult, Verdict
from genqual.metrics.compute import Measured
from genqual.metrics.registry import is_exact, rule
from genqual.ranks.client import Generator

_FASTEST: Final[dict[Series, Series]] = {"raw": "floor", "frozen": "frozen_floor"}
_MEDIAN_ONLY: Final = (
    "the median step is slower and the fastest are not, as others on this host, or a fault that comes and goes, make it"
)
HOUR: Final = 0.5  # of the tolerance: what a host's hour may do to its speed, where nothing cancels it (docs/gate.md)


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks of the gate. `asked` is every metric that it will judge of a case: alpha is split over all."""

    asked: Mapping[Case, frozenset[str]]
    gated: Mapping[str, Workload]
    baselines: Path
    under_test: str = "engine"
    budget_s: float | None = None

    @property
    def metrics(self) -> int:
        """Over how many alpha is split; what is exact takes no part of it."""
        noisy = {name for name in GATED if not is_exact(name)}
        return max(1, sum(len(names & noisy) for names in self.asked.values()))


@dataclass
class Judging:
    """The gate's state over a run: one list of launches a case, and the time they took.

    `accuracy` says why a case's answers are not known to be right, or nothing. `other` makes the generator of the build
    that is compared with (`--baseline-from`); without it a committed baseline answers.
    """

    question: Question
    progress: Callable[[str], None]
    accuracy: Callable[[Case], str]
    other: Callable[[Case], Generator] | None = None
    command: Callable[[Case, Workload, str], str] = field(default=lambda case, workload, metric: "")
    _now: dict[Case, CaseLaunches] = field(default_factory=dict)
    _then: dict[Case, CaseLaunches] = field(default_factory=dict)
    _files: dict[str, BaselineFile | None] = field(default_factory=dict)
    _spent_s: float = 0.0

    def judge(self, generator: Generator, weights: Sequence[str], workload: Workload, measured: Measured) -> GateResult:
        """The verdict on one metric, with as many fresh launches as it takes. Raises BadInput on a bad baseline."""
        case, name = generator.case, measured.name
        subject = subject_of(case, weights, workload, name)

        def unjudged(verdict: Verdict, why: str, launches: int = 0) -> GateResult:
            return GateResult(verdict, why, subject.key, launches=launches)

        if name not in GATED:
            return unjudged(Verdict.RECORDED, f"{name} follows from metrics that the gate judges; it is recorded")
        if workload != self.question.gated[name]:
            at = self.question.gated[name].id
            return unjudged(Verdict.RECORDED, f"the gate judges {name} at {at}; at {workload.id} it is recorded")
        if name in engine(case.engine).unseen:
            return unjudged(Verdict.RECORDED, f"{name} is not judged: {engine(case.engine).unseen[name]}")
        if measured.value is None:
            return unjudged(Verdict.INCONCLUSIVE, f"{name} was not measured: {measured.note}")
        entry = None
        if self.other is None:
            known = self._file(case.device)
            entry = known.entry(subject.key) if known else None
            if entry is None:
                return unjudged(
                    Verdict.NO_BASELINE,
                    f"no baseline of {name} for this hardware, model, engine and workload: recorded, not judged",
                    1,
                )
        stop = self._refused(case, entry)
        if stop:
            return unjudged(Verdict.INCONCLUSIVE, f"not admitted: {stop}")
        return self._launch_until_decided(generator, entry, measured, subject.key, workload)

    def at_most_s(self, case: Case, metric: str) -> float | None:
        """Seconds of the most launches of a case, as long as those of this run; None before the first one."""
        launches = self._now.get(case)
        if launches is None or not launches.taken:
            return None
        return gate.settings_for(metric, case.ranks).k_max * launches.forecast_s

    def _file(self, device: str) -> BaselineFile | None:
        class_id = devices()[device].identity().class_id
        if class_id not in self._files:
            self._files[class_id] = baseline_file.find(self.question.baselines, class_id)
        return self._files[class_id]

    def _refused(self, case: Case, entry: Entry | None) -> str:
        """Why no launch of this case may be judged at all."""
        found = [reason for reason in (disturbed_by_xdist(), self.accuracy(case)) if reason]
        if entry is not None:
            found += admission.identity_mismatches(entry.identity, identity_here(case.device), self.question.under_test)
            if entry.frozen_source not in (None, frozen_source()):
                found.append("the reference step's source is not the baseline's; `genqual rebase` measures anew")
            if len(_quiet(entry.launches, self.question.under_test)) < 2:
                found.append("the host was noisy when the baseline was made; `genqual rebase` measures anew")
            found += _hours(case, entry, self.question.under_test)
        return admission.said(found)

    def _launch_until_decided(
        self, generator: Generator, entry: Entry | None, measured: Measured, key: str, workload: Workload
    ) -> GateResult:
        case, name, asked = generator.case, measured.name, self.question
        settings = gate.settings_for(
            name,
            case.ranks,
            metrics=asked.metrics,
            hook=entry is None or entry.hook == "steps",
            tolerance=entry.tolerance if entry else None,
        )
        if entry is not None and asked.under_test != "engine" and not is_exact(name):
            settings = replace(settings, allowance=HOUR * settings.tolerance)  # another build's are of this hour
        now = self._launches(self._now, generator, entry, name)
        then = None
        if self.other is not None:
            then = self._launches(self._then, self.other(case), entry, name)
        announced = False
        while True:
            candidates = [one for one in now.taken if name in one.metrics or name in one.unmeasured or one.failed]
            good = [one for one in candidates if not one.why_not(name, entry, asked.under_test)]
            new = [one.metrics[name] for one in good]
            old = _quiet(entry.launches, asked.under_test) if entry else _good(then, name, asked.under_test)
            decision = _decide(old, new, settings, name, asked.under_test)
            blind = _blind(new, now.job.slowdown)
            end = self._end(decision, blind, candidates, good, settings, name, entry)
            if end:
                verdict, why = end
                return self._result(verdict, why, decision, measured, key, settings, good, case, workload)
            if not announced:
                announced = True
                self.progress(
                    f"gate: {case} {name}: {forecast(settings.k_min, settings.k_max, now.forecast_s)}"
                    + (", each beside one of the other build" if then else "")
                )
            so_far = f", E={evidence(max(decision.log_slower, decision.log_within))}" if decision else ""
            self.progress(f"launch {len(candidates) + 1} of at most {settings.k_max}{so_far}")
            start = time.monotonic()
            if then is not None:
                then.extend()
            now.extend()
            self._spent_s += time.monotonic() - start

    def _launches(
        self, kept: dict[Case, CaseLaunches], generator: Generator, entry: Entry | None, name: str
    ) -> CaseLaunches:
        """The list of the case; its launches measure everything that the run asks of the case, and this metric."""
        case = generator.case
        wanted = self.question.asked.get(case, frozenset()) | {name}
        if case not in kept:
            shape = entry.frozen if entry and entry.frozen else frozen_shape(generator.loaded[0].parameters, case.dtype)
            # The self-test's slowdown is of the launch, for all of its metrics, whatever tolerance a baseline has.
            slowdown = gate.settings_for("tpot", case.ranks, hook=entry is None or entry.hook == "steps").tolerance
            job = LaunchJob.of(wanted, self.question.gated, shape, slowdown=slowdown, ranks=case.ranks)
            kept[case] = CaseLaunches(generator, job)
        found = kept[case]
        if SECTIONS[name] not in found.job.workloads:  # asked for by a test that has no mark to say so
            workloads = {**found.job.workloads, SECTIONS[name]: self.question.gated[name]}
            found.job = replace(found.job, workloads=workloads)
        return found

    def _end(
        self,
        decision: Decision | None,
        blind: str,
        candidates: Sequence[Taken],
        good: Sequence[Taken],
        settings: Settings,
        name: str,
        entry: Entry | None,
    ) -> tuple[Verdict, str] | None:
        """The verdict with its reason when there is one, else None: launch again."""
        bad = [one for one in candidates if one not in good]
        reasons = admission.said(
            [reason for one in bad for reason in one.why_not(name, entry, self.question.under_test)]
        )
        if any(one.failed or name in one.unmeasured for one in bad):  # the next launch would end the same way
            return Verdict.INCONCLUSIVE, f"not admitted: {reasons}"
        if decision is not None and decision.verdict not in (None, Verdict.INCONCLUSIVE) and not blind:
            return decision.verdict, reasons
        if len(good) < settings.k_min and len(bad) >= settings.k_min:
            return Verdict.INCONCLUSIVE, f"not admitted: {len(bad)} of {len(candidates)} launches: {reasons}"
        if len(candidates) >= settings.k_max:
            doubt = f": {decision.doubt}" if decision and decision.doubt else ""
            why = blind or f"inconclusive after {len(good)} launches{doubt}"
            return Verdict.INCONCLUSIVE, admission.said([why, reasons] if reasons else [why])
        budget = self.question.budget_s
        if budget is not None and self._spent_s >= budget:
            why = f"the gate's budget of {budget:.0f} s is spent after {len(good)} launches (--gate-budget gives more)"
            return Verdict.INCONCLUSIVE, admission.said([why, *filter(None, [blind, reasons])])
        return None

    def _result(
        self,
        verdict: Verdict,
        why: str,
        decision: Decision | None,
        measured: Measured,
        key: str,
        settings: Settings,
        good: Sequence[Taken],
        case: Case,
        workload: Workload,
    ) -> GateResult:
        if decision is None:
            return GateResult(verdict, why, key, launches=len(good))
        change, interval = decision.change, decision.interval
        words = f"{abs(change):.1%} {_change_word(measured.name, change)} ({interval[0]:+.1%} to {interval[1]:+.1%})"
        if measured.better == "higher":  # more time is less of it
            change = 1 / (1 + change) - 1
            interval = (1 / (1 + interval[1]) - 1, 1 / (1 + interval[0]) - 1)
        against = decision.log_within if verdict is Verdict.PASS else max(decision.log_slower, decision.log_faster)
        what = f"against a change of {settings.tolerance:.0%}" if verdict is Verdict.PASS else "against no change"
        said = [f"{words}, E = {evidence(against)} {what}, {decision.launches} launches, sigma {decision.sigma:.2%}"]
        if settings.tolerance > gate.settings_for(measured.name, case.ranks).tolerance:
            said.append(f"tolerance {settings.tolerance:.0%}: this baseline's, by what its launches vary")
        if settings.allowance:
            said.append(f"{settings.allowance:.1%} either way is left to the hour")
        said += [why] if why else []
        if verdict is Verdict.REGRESSED:
            said.append(f"probes: {_probes(good)}")
            said.append(f"again: {self.command(case, workload, measured.name)}")
        return GateResult(verdict, "; ".join(said), key, change, interval, float(evidence(against)), decision.launches)


def _quiet(launches: Sequence[Launch], under_test: str) -> list[Launch]:
    """Those that may be compared by what nothing cancels: a baseline keeps launches of a disturbed host, too."""
    return [one for one in launches if under_test == "engine" or not admission.noisy(one.frozen, one.frozen_floor)]


def _hours(case: Case, entry: Entry, under_test: str) -> list[str]:
    """Why the hours of this host say nothing of what is under test: its speed itself, which nothing cancels then."""
    name = entry.subject.metric
    if under_test == "engine" or is_exact(name):
        return []
    launches = _quiet(entry.launches, under_test)
    most = HOURS * gate.settings_for(name, case.ranks, hook=entry.hook == "steps", tolerance=entry.tolerance).tolerance
    differ = max((apart(launches, of) for of in _level(launches)), default=0.0)
    if differ <= most:
        return []
    return [
        f"host speed drifts: between batches of its baseline it differs by {differ:.1%}, and a"
        f" verdict on the {under_test} needs {most:.1%} or less; judge it where nothing else runs"
    ]


def _level(launches: Sequence[Launch]) -> list[Series]:
    """What tells the speed of the host from its guests best, of what these launches have: their fastest steps."""
    fastest: list[Series] = ["floor", "frozen_floor"]
    medians: list[Series] = ["raw", "frozen"]
    found = [of for of in fastest if all(getattr(one, of) is not None for one in launches)]
    return found or [of for of in medians if all(getattr(one, of) is not None for one in launches)]


def _pairs(
    old: Sequence[Launch], new: Sequence[Launch], under_test: str
) -> dict[Series, tuple[list[float], list[float]]]:
    """What is compared, of then and now: the ratio to the reference step. Where that shares what is under test: both by
    themselves, their medians, which a fault that comes and goes moves, and their fastest, which no neighbour does.
    """
    names: list[Series] = ["z"] if under_test == "engine" else ["raw", "frozen", "floor", "frozen_floor"]
    found = {}
    for name in names:
        then, now = ([value for one in part if (value := getattr(one, name)) is not None] for part in (old, new))
        if len(then) == len(old) and len(now) == len(new):
            found[name] = (then, now)
    return found


def _decide(
    old: Sequence[Launch], new: Sequence[Launch], settings: Settings, name: str, under_test: str
) -> Decision | None:
    if len(old) < 2 or not new:
        return None
    if is_exact(name):
        then, now = ([one.z for one in part] for part in (old, new))
        return gate.decide_exact(then, now, slack=rule(name).slack, k_min=settings.k_min)
    pairs = _pairs(old, new, under_test)
    shared = replace(settings, alpha=settings.alpha / len(pairs))
    found = {name: gate.decide(then, now, shared) for name, (then, now) in pairs.items()}
    for median, fastest in _FASTEST.items():
        if fastest in found and found[median].verdict is Verdict.REGRESSED is not found[fastest].verdict:
            found[median] = replace(found[median], verdict=None, doubt=_MEDIAN_ONLY)
    return gate.worse(list(found.values()))


def _blind(new: Sequence[Launch], slowdown: float) -> str:
    """What the self-test says of these launches; a metric that is measured once a launch has no blocks to test."""
    if not any(one.slowed for one in new):
        return ""
    return sensitivity.blind(
        (value for one in new for value in one.same), (value for one in new for value in one.slowed), slowdown
    )


def _good(launches: CaseLaunches | None, name: str, under_test: str) -> list[Launch]:
    """The other build's launches that count. Raises BadInput when one failed: there is nothing to compare with."""
    taken = launches.taken if launches else []
    for one in taken:
        if one.failed:
            raise BadInput(f"--baseline-from: the other build cannot be measured: {one.failed}")
    return [one.metrics[name] for one in taken if name in one.metrics and not one.why_not(name, None, under_test)]


def _change_word(name: str, change: float) -> str:
    return rule(name).less_and_more[change > 0]


def _probes(good: Sequence[Taken]) -> str:
    names = sorted({name for one in good for name in one.probes})
    return ", ".join(
        f"{name} {min(values):.3g} to {max(values):.3g}"
        for name in names
        if (values := [one.probes[name] for one in good if name in one.probes])
    )
