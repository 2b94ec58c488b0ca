"""The gate as a run has it: what is asked, which baseline answers, when to launch again, and what is said of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from genqual.cases import Case, Workload
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.gate import admission, baseline_file, pairing, tolerances
from genqual.gate import decision as gate
from genqual.gate.baseline_file import BaselineFile, Entry
from genqual.gate.case_launches import (
    CaseLaunches,
    Taken,
    disturbed_by_xdist,
    evidence,
    forecast,
    identity_here,
    subject_of,
)
from genqual.gate.comparison import blind_here, decided, good_of, hours, quiet
from genqual.gate.decision import GATED, Decision, Settings
from genqual.gate.launch_plan import QUICK_LAUNCHES, SECTIONS, LaunchJob, frozen_shape, frozen_source
from genqual.gate.pairing import Pairing
from genqual.gate.stages import SHARE, Stage, pairs_of, stage_one
from genqual.gate.tolerances import Known
from genqual.gate.verdict import GateResult, Verdict
from genqual.gate.wording import Asked, result_of
from genqual.metrics.compute import Measured
from genqual.metrics.registry import is_exact, rule
from genqual.ranks.client import Generator

HOUR: Final = 0.5  # of the tolerance: what an hour may do to a host, where nothing cancels it: docs/gate-theory.md


@dataclass(frozen=True, slots=True)
class Question:
    """What a run asks of the gate. `asked` is every metric that it will judge of a case: alpha is split over all.

    `judges` are the metrics that the run lets the gate judge; all others are recorded.
    """

    asked: Mapping[Case, frozenset[str]]
    gated: Mapping[str, Workload]
    baselines: Path
    under_test: str = "engine"
    budget_s: float | None = None
    judges: frozenset[str] = frozenset(GATED)
    tolerance: float | None = None  # what is to be found of times of steps, in place of 5 % and 10 %

    def settings(self, metric: str, ranks: int, *, hook: bool = True) -> Settings:
        """What is asked of one metric. A metric that has a tolerance of its own, such as loading, keeps it."""
        found = gate.settings_for(metric, ranks, metrics=self.metrics, hook=hook)
        if self.tolerance is None or rule(metric).tolerance is not None or is_exact(metric):
            return found
        return replace(found, tolerance=self.tolerance)

    @property
    def metrics(self) -> int:
        """Over how many alpha is split; what is exact takes no part of it."""
        noisy = {name for name in GATED if not is_exact(name)}
        return max(1, sum(len(names & noisy) for names in self.asked.values()))


@dataclass
class Judging:
    """The gate's state over a run: one list of launches a case and stage, and the time they took.

    `accuracy` says why a case's answers are not known to be right, or nothing. `other` makes the generator of the build
    that is compared with (`--baseline-from`); without it a committed baseline answers, and `pairing` says how to pair
    with its build; None: the run forbids it (`--no-pair`). `keep` is given each launch of today's build. `remake` is
    the command that measures a baseline of a case; its second argument asks for a quick one.
    """

    question: Question
    progress: Callable[[str], None]
    accuracy: Callable[[Case], str]
    other: Callable[[Case], Generator] | None = None
    command: Callable[[Case, Workload, str], str] = field(default=lambda case, workload, metric: "")
    pairing: Pairing | None = None
    keep: Callable[[Generator, LaunchJob, Taken], None] = field(default=lambda generator, job, taken: None)
    remake: Callable[[Case, bool], str] = field(default=lambda case, quick: "genqual rebase" + " --quick" * quick)
    _now: dict[Case, CaseLaunches] = field(default_factory=dict)
    _then: dict[str, dict[Case, CaseLaunches]] = field(default_factory=dict)  # by build: a case may have several
    _beside: dict[str, dict[Case, CaseLaunches]] = field(default_factory=dict)  # today's in turns with them
    _files: dict[str, BaselineFile | None] = field(default_factory=dict)
    _spent_s: float = 0.0
    _first_s: float = 0.0  # of that, in stages one that a stage two can follow

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
        if name not in self.question.judges:
            return unjudged(Verdict.RECORDED, f"{name} is recorded: this run judges {self._judges} (--gate-metrics)")
        if name in engine(case.engine).unseen:
            return unjudged(Verdict.RECORDED, f"{name} is not judged: {engine(case.engine).unseen[name]}")
        if measured.value is None:
            return unjudged(Verdict.INCONCLUSIVE, f"{name} was not measured: {measured.note}")
        entry = None
        if self.other is None:
            known = self._file(case.device)
            entry = known.entry(subject.key) if known else None
            if entry is None:
                why = f"no baseline of {name} for this hardware, model, engine and workload: recorded, not judged"
                return unjudged(Verdict.NO_BASELINE, f"{why}. {_quick(self.question, self.remake, generator)}", 1)
        stop = self._refused(case, entry)
        if stop:
            return unjudged(Verdict.INCONCLUSIVE, f"rejected: {stop}")
        hook = entry is None or entry.hook == "steps"
        standard = self.question.settings(name, case.ranks, hook=hook).tolerance
        item = Asked(generator, entry, measured, subject.key, workload, standard)
        return self._against_build(item) if entry is None else self._against_file(item, entry)

    @property
    def _judges(self) -> str:
        return ", ".join(name for name in GATED if name in self.question.judges)

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
                found.append(
                    "the reference step's source is not the baseline's, which is of a former control;"
                    f" `{self.remake(case, False)}` measures anew"
                )
            if len(quiet(entry.launches, self.question.under_test)) < 2:
                found.append("the host was noisy when the baseline was made; `genqual rebase` measures anew")
            found += hours(case, entry, self.question.under_test)
        return admission.said(found)

    def _against_build(self, item: Asked) -> GateResult:
        """Stage two alone: `--baseline-from`."""
        settings = self.question.settings(item.name, item.case.ranks)
        assert self.other is not None
        stage = Stage(settings)
        return self._launch_until_decided(item, stage, self._now, partial(self._turns, "", self.other, item))[0]

    def _against_file(self, item: Asked, entry: Entry) -> GateResult:
        """Stage one, and stage two where that leaves it open and there is a build to pair with."""
        asked, name, steps = self.question, item.name, entry.hook == "steps"
        settings = asked.settings(name, item.case.ranks, hook=steps)
        if asked.under_test != "engine" or is_exact(name):
            settings = replace(settings, tolerance=max(entry.tolerance or 0.0, settings.tolerance))
            if not is_exact(name):  # another build's are of this hour
                settings = replace(settings, allowance=HOUR * settings.tolerance)
            return self._launch_until_decided(item, Stage(settings), self._now)[0]
        known = Known.of(entry)
        narrow = replace(settings, tolerance=tolerances.paired(entry.launches, known, settings))
        why = "--no-pair" if self.pairing is None else pairing.why_not(item.case, entry)
        if not why:
            stage = Stage(stage_one(narrow), known, share=SHARE)
            found, open_ = self._launch_until_decided(item, stage, self._now)
            if not open_:
                return found
            paired = self._pair(item, entry, narrow, known, found)
            if isinstance(paired, GateResult):
                return self._or_pass_of_the_file(paired, item, stage)
            why = paired
        least = tolerances.allowed(entry.launches, known, settings)
        settings = replace(settings, tolerance=max(entry.tolerance or 0.0, least))
        note = (
            f"drift between occasions is {known.drift.sd:.1%}, so the file alone finds {settings.tolerance:.0%}"
            f" and pairing with its build {narrow.tolerance:.0%}; not paired: {why}"
        )
        return self._launch_until_decided(item, Stage(settings, known, note=note), self._now)[0]

    def _or_pass_of_the_file(self, paired: GateResult, item: Asked, first: Stage) -> GateResult:
        """Where pairs decided nothing, the PASS that stage one kept back to learn whether code is faster; no launch."""
        if paired.verdict is not Verdict.INCONCLUSIVE:
            return paired
        last = replace(first, settings=replace(first.settings, final=True), note=f"pairs: {paired.reason}")
        found = self._launch_until_decided(item, last, self._now)[0]
        return found if found.verdict is Verdict.PASS else paired

    def _pair(self, item: Asked, entry: Entry, narrow: Settings, known: Known, first: GateResult) -> GateResult | str:
        """Stage two; or why it cannot be had after all, and stage one stands."""
        assert self.pairing is not None
        commit, generator_of = entry.provenance.commit[:12], self.pairing.generator
        read = "" if first.estimate is None else f" at {first.estimate:+.1%}"
        note = f"paired with {commit} in this run, because the file left it open{read} (drift {known.drift.sd:.1%})"
        stage = Stage(pairs_of(narrow), note=note)
        try:
            other = partial(self._turns, commit, lambda case: generator_of(case, entry), item)
            return self._launch_until_decided(item, stage, self._beside.setdefault(commit, {}), other)[0]
        except BadInput as error:
            return f"{commit} cannot be measured here: {error}"

    def _turns(self, build: str, generator_of: Callable[[Case], Generator], item: Asked) -> CaseLaunches:
        """The list of the other build's launches of a case."""
        return self._launches(self._then.setdefault(build, {}), generator_of(item.case), item.entry, item.name)

    def _launch_until_decided(
        self, item: Asked, stage: Stage, kept: dict[Case, CaseLaunches], other: Callable[[], CaseLaunches] | None = None
    ) -> tuple[GateResult, bool]:
        """The result of one stage, and whether it is open: enough good launches that decide nothing."""
        name, entry, asked, settings = item.name, item.entry, self.question, stage.settings
        now = self._launches(kept, item.generator, entry, name)
        then = other() if other else None
        announced = False
        while True:
            candidates = [one for one in now.taken if name in one.metrics or name in one.unmeasured or one.failed]
            good = [one for one in candidates if not one.why_not(name, entry, asked.under_test)]
            new = [one.metrics[name] for one in good]
            if entry is not None and then is None:
                old = quiet(entry.launches, asked.under_test)
            else:
                old = good_of(then, name, asked.under_test)
            decision = decided(old, new, settings, name, asked.under_test, stage.known)
            blind = blind_here(new, now.job.slowdown)
            end = self._end(decision, blind, candidates, good, stage, name, entry)
            if end:
                verdict, why, open_ = end
                return result_of(verdict, why, decision, item, stage, good, self.command), open_
            if not announced:
                announced = True
                self.progress(
                    f"gate: {item.case} {name}: {forecast(settings.k_min, settings.k_max, now.forecast_s)}"
                    + (", each beside one of the other build" if then else "")
                    + (f"; {stage.note}" if then and stage.note else "")
                )
            so_far = f", E={evidence(max(decision.log_slower, decision.log_within))}" if decision else ""
            self.progress(f"launch {len(candidates) + 1} of at most {settings.k_max}{so_far}")
            self._extend(now, then, stage)

    def _extend(self, now: CaseLaunches, then: CaseLaunches | None, stage: Stage) -> None:
        """One launch more, and before it one of the other build."""
        start = time.monotonic()
        if then is not None:
            then.extend()
        self.keep(now.generator, now.job, now.extend())
        took = time.monotonic() - start
        self._spent_s += took
        self._first_s += took if stage.share < 1.0 else 0.0

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
        stage: Stage,
        name: str,
        entry: Entry | None,
    ) -> tuple[Verdict, str, bool] | None:
        """The verdict with its reason, and whether another stage may decide, when there is one; None: launch again."""
        settings = stage.settings
        bad = [one for one in candidates if one not in good]
        reasons = admission.said(
            [reason for one in bad for reason in one.why_not(name, entry, self.question.under_test)]
        )
        if any(one.failed or name in one.unmeasured for one in bad):  # the next launch would end the same way
            return Verdict.INCONCLUSIVE, f"rejected: {reasons}", False
        if decision is not None and decision.verdict not in (None, Verdict.INCONCLUSIVE) and not blind:
            return decision.verdict, reasons, False
        if len(good) < settings.k_min and len(bad) >= settings.k_min:
            why = f"rejected: {len(bad)} of {len(candidates)} launches: {reasons}"
            return Verdict.INCONCLUSIVE, why, False
        budget = self.question.budget_s
        spent = budget is not None and (self._spent_s >= budget or self._first_s >= stage.share * budget)
        last = settings.final and (spent or len(candidates) >= settings.k_max) and len(good) >= settings.k_min
        if last and decision is not None and decision.passes and not blind:  # more would only tell whether it is faster
            return Verdict.PASS, reasons, False
        # A gate that cannot see its own slowdown after a few launches may see it after more of them.
        if len(candidates) >= settings.k_max:
            doubt = f": {decision.doubt}" if decision and decision.doubt else ""
            why = blind or f"inconclusive after {len(good)} launches{doubt}"
            return Verdict.INCONCLUSIVE, admission.said([why, reasons] if reasons else [why]), True
        if budget is not None and spent:
            why = f"the gate's budget of {budget:.0f} s is spent after {len(good)} launches (--gate-budget gives more)"
            return Verdict.INCONCLUSIVE, admission.said([why, *filter(None, [blind, reasons])]), self._spent_s < budget
        return None


def _quick(question: Question, remake: Callable[[Case, bool], str], generator: Generator) -> str:
    """The command that makes a baseline of this case, and how long it takes."""
    case = generator.case
    metrics = set(GATED) - set(engine(case.engine).unseen)
    shape = frozen_shape(generator.loaded[0].parameters, case.dtype)
    job = LaunchJob.of(metrics, question.gated, shape, slowdown=0.05, ranks=case.ranks)
    each = CaseLaunches(generator, job).forecast_s
    minutes = math.ceil((QUICK_LAUNCHES + 1) * each / 60.0)
    return f"`{remake(case, True)}` makes one in about {minutes} minutes"
