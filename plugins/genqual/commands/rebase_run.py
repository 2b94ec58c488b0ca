"""A rebase once it is known what is measured: launches in batches, then an entry a metric, or why there is none."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import click

from genqual.cases import Case, Json, Workload
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.gate import baseline_file, decision
from genqual.gate.baseline_builder import (
    change,
    entry_of,
    merged,
    problem,
    slower,
    tolerance_of,
    unfit,
    write,
)
from genqual.gate.baseline_file import BaselineFile, Entry, KnownDrift, Launch, Provenance, Subject
from genqual.gate.case_launches import CaseLaunches, Taken, identity_here, subject_of
from genqual.gate.drift import PRIOR_FREEDOM, by_time, occasions_of, prior
from genqual.gate.history import History, build_here, builds_of, control_of
from genqual.gate.launch_plan import LaunchJob, frozen_shape, frozen_source
from genqual.gate.pairing import packages_of
from genqual.gate.rebase_state import Unfinished
from genqual.gate.tolerances import Known, paired
from genqual.metrics.registry import is_exact, rule
from genqual.models.registry import cache_dir
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool
from genqual.session.options import Options


@dataclass(frozen=True, slots=True)
class Request:
    """What is measured, how often, and into which directory. `tolerance_up_to` 0.1: 10 %; `pause_s` between batches.

    `limit_s`: what all of it may take, as far as the first launches tell. `state`: where runs keep their launches.
    """

    device: str
    cases: tuple[Case, ...]
    metrics: Sequence[str]
    gated: Mapping[str, Workload]
    launches: int
    batches: int
    pause_s: float
    tolerance_up_to: float
    reason: str | None
    accept: str | None
    options: Options
    target: Path
    provenance: Provenance
    limit_s: float | None = None
    state: Path | None = None


class RebaseRun:
    """One call of `genqual rebase`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        request.target.mkdir(parents=True, exist_ok=True)
        hardware = devices()[request.device].identity()
        self._class_id, self._facts = hardware.class_id, hardware.facts
        self._identity = identity_here(request.device)
        self._known: BaselineFile | None = baseline_file.find(request.target, self._class_id)
        self._entries: dict[str, Entry] = {}
        self._problems: list[str] = []
        self._occasions: list[int] | None = None
        self._history = History.of(request.state, self._class_id) if request.state else None
        self._past = self._history.read() if self._history else []
        for problem_ in self._history.problems if self._history else ():
            _say(problem_)

    def run(self) -> list[str]:
        """Measure, judge, write; why metrics have no new baseline."""
        unfinished = self._unfinished()
        request = self._request
        with tempfile.TemporaryDirectory(prefix="genqual-") as logs:
            pool = Pool(1, progress=lambda text: None)
            try:
                made = measure(pool, Path(logs), request, unfinished)
            except KeyboardInterrupt:
                _say("the launches that are done are kept: the same command goes on after them")
                raise
            finally:
                pool.close_all()
        spans = unfinished.spans(request.batches)
        self._occasions = None if spans is None else by_time(spans)
        if spans and any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
            _say("the clock went back between batches: they count as made on one occasion")
        for lists in made:
            for metric in request.metrics:
                self._judge(lists, metric)
        if self._entries:
            path = request.target / f"{self._class_id}.json"
            write(path, merged(self._known, self._class_id, self._facts, self._entries))
            click.echo(f"wrote {len(self._entries)} entries to {path}")
        unfinished.done()
        return self._problems

    def _unfinished(self) -> Unfinished:
        request = self._request
        facts: dict[str, Json] = {
            "class": self._class_id,
            "identity": self._identity,
            "frozen": frozen_source(),
            "commit": request.provenance.commit,
            "cases": [str(case) for case in request.cases],
            "cores_per_rank": [case.cores_per_rank for case in request.cases],  # no id says it
            # A commit says nothing of what is not committed yet, nor of packages that were exchanged meanwhile.
            "builds": [build_here(packages_of(case)) for case in request.cases],
            "metrics": {metric: request.gated[metric].id for metric in request.metrics},
            "launches": request.launches,
            "batches": request.batches,
        }
        settings = request.options.settings
        return Unfinished.of(cache_dir() / "rebase", facts | ({"settings": settings} if settings else {}))

    def _judge(self, lists: CaseLaunches, metric: str) -> None:
        """Make the entry of one metric, or note why there is none."""
        request, case = self._request, lists.generator.case
        where, unseen = f"{case} {metric}", engine(case.engine).unseen
        if metric in unseen:
            click.echo(f"{where}: has no baseline, for it is not judged: {unseen[metric]}")
            return
        subject = subject_of(case, lists.weights, request.gated[metric], metric)
        old = self._known.entry(subject.key) if self._known else None
        exact = is_exact(metric)
        good, kept = _kept(lists, metric)
        why = next((one.unmeasured[metric] for one in lists.taken if metric in one.unmeasured), "")
        if why:
            self._problems.append(f"{where}: {why}")
            return
        standard = decision.settings_for(metric, case.ranks, hook=_hook(lists) == "steps").tolerance
        known = self._known_drift(subject, lists, metric, kept, prior(standard, stepped=rule(metric).stepped))
        least = tolerance_of(kept, standard, request.tolerance_up_to, known) if kept else standard
        settings = decision.settings_for(metric, case.ranks, tolerance=least)
        found = problem(kept, settings, exact=exact, known=known)
        if found:
            self._problems.append(f"{where}: {found}")
            return
        if old is not None:
            against = replacing(where, old, kept, settings, metric, request.reason, request.accept)
            self._problems += against
            if against:
                return
        self._entries[subject.key] = entry_of(
            subject,
            kept,
            good,
            lists.job,
            tolerance=None if exact else settings.tolerance,
            identity=self._identity,
            provenance=request.provenance,
            old=old,
            drift=None if exact else self._drift(known),
            packages=packages_of(case),
        )
        click.echo(f"{where}: {_told(kept, old, settings, metric, standard, known)}")

    def _known_drift(
        self, subject: Subject, lists: CaseLaunches, metric: str, kept: Sequence[Launch], prior_sd: float
    ) -> Known:
        """What these batches, and the launches that earlier runs kept of this subject, say of drift."""
        others: list[list[list[float]]] = []
        if kept and self._past:
            shape = lists.job.shape.model_dump() if rule(metric).stepped else None
            control = control_of(self._identity, frozen_source(), shape, _hook(lists), kept[0])
            others = builds_of(self._past, subject.key, control)
        return Known.measured(kept, prior_sd, self._occasions, others)

    def _drift(self, known: Known) -> KnownDrift:
        each = self._occasions or occasions_of(range(self._request.batches), None)
        sd, freedom = round(known.drift.sd, 6), known.drift.freedom
        return KnownDrift(sd=sd, freedom=freedom, occasions=tuple(each))


def measure(pool: Pool, logs: Path, request: Request, unfinished: Unfinished) -> list[CaseLaunches]:
    """All launches, the batches of the cases in turns, so that those of one case lie apart in time.

    Those that an interrupted run left in `unfinished` are taken over, and each new one is put there.
    """
    launches, batches, pause = request.launches, request.batches, request.pause_s
    made: list[CaseLaunches] = []
    began, each_s = time.monotonic(), 0.0
    for case in request.cases:
        spec = engine(case.engine)
        asked = request.options.of_engine(spec.settings)
        generator = Generator(pool, plan(case, logs, options=asked))
        shape = frozen_shape(generator.loaded[0].parameters, case.dtype)
        slowdown = decision.settings_for("tpot", case.ranks).tolerance
        job = LaunchJob.of(
            set(request.metrics) - set(spec.unseen), request.gated, shape, slowdown=slowdown, ranks=case.ranks
        )
        lists = CaseLaunches(generator, job)
        _say(f"{case}: {launches} launches of about {lists.forecast_s:.0f} s; a first one warms the page cache")
        lists.extend()
        if lists.taken[-1].failed:
            raise BadInput(f"{case}: {lists.taken[-1].failed}")
        each_s += lists.taken[-1].wall_s
        lists.taken.clear()
        made.append(lists)
    _in_time(request, time.monotonic() - began, each_s)
    sizes = [launches // batches + (index < launches % batches) for index in range(batches)]
    read = unfinished.read()
    kept = [[read.get((str(x.generator.case), i, x.weights), [])[:size] for x in made] for i, size in enumerate(sizes)]
    taken_over = sum(len(part) for batch in kept for part in batch)
    if taken_over:
        _say(f"going on after {taken_over} launches; delete {unfinished.path} to begin anew")
    start, done, total, fresh = time.monotonic(), 0, launches * len(request.cases) - taken_over, False
    for batch, size in enumerate(sizes):
        if fresh and pause:
            _say(f"pause of {pause:.0f} s between batches")
            for lists in made:
                pool.drop(lists.generator.plan)  # others may have the memory, and an exclusive card, meanwhile
            time.sleep(pause)  # launches of one minute are more alike than those of two
        for lists, before in zip(made, kept[batch], strict=True):
            lists.taken += before
            for _ in range(size - len(before)):
                fresh = True
                taken = _of_batch(_undisturbed(lists), batch)
                lists.taken[-1] = taken
                unfinished.add((str(lists.generator.case), batch, lists.weights), taken)
                done += 1
                left = (time.monotonic() - start) / done * (total - done)
                _say(f"{lists.generator.case}: launch {done} of {total}, {taken.wall_s:.0f} s, about {left:.0f} s left")
    return made


def _in_time(request: Request, spent_s: float, each_s: float) -> None:
    """Raises BadInput where a launch of each case, `each_s`, is too long for what all of it may take."""
    if request.limit_s is None:
        return
    takes = spent_s + request.launches * each_s + request.pause_s * (request.batches - 1)
    if takes > request.limit_s:
        one = " ".join(f"--model {model}" for model in sorted({case.model for case in request.cases})[:1])
        raise BadInput(
            f"--quick: {request.launches} launches of {len(request.cases)} cases take {takes / 60:.0f} minutes, and it"
            f" has {request.limit_s / 60:.0f}; give it fewer at once ({one}), or leave --quick out"
        )


def _undisturbed(lists: CaseLaunches) -> Taken:
    """One launch that may be kept; up to two that were disturbed are made again."""
    for attempt in range(3):
        taken = lists.extend()
        reasons = unfit(taken, "", lists.generator.case)
        if not reasons or attempt == 2:
            return taken
        _say(f"{lists.generator.case}: again, because {'; '.join(reasons)}")
        lists.taken.pop()
    raise AssertionError("the last attempt is returned")


def _of_batch(taken: Taken, batch: int) -> Taken:
    metrics = {name: one.model_copy(update={"batch": batch}) for name, one in taken.metrics.items()}
    return replace(taken, metrics=metrics)


def _kept(lists: CaseLaunches, metric: str) -> tuple[list[Taken], list[Launch]]:
    good = [one for one in lists.taken if metric in one.metrics and not unfit(one, metric, lists.generator.case)]
    return good, [one.metrics[metric] for one in good]


def _hook(lists: CaseLaunches) -> str:
    return lists.taken[0].hook if lists.taken else "steps"


def replacing(
    where: str,
    old: Entry,
    new: Sequence[Launch],
    settings: decision.Settings,
    metric: str,
    reason: str | None,
    accept: str | None,
) -> list[str]:
    """Why the entry `old` may not be replaced by one of the launches `new`, or nothing."""
    found = []
    if not (reason or accept):
        found.append(f"{where}: an entry of {old.provenance.date:%Y-%m-%d} is replaced; say why with --reason")
    if old.tolerance is not None and settings.tolerance > old.tolerance and not accept:
        wider = f"its tolerance becomes {settings.tolerance:.0%} instead of {old.tolerance:.0%}"
        found.append(f"{where}: {wider}, and slower ones will pass; accept it with --accept-regression REASON")
    became = slower(old, new, settings, exact=is_exact(metric))
    if became and not accept:
        found.append(f"{where}: {became}; accept it with --accept-regression REASON")
    return found


def _told(
    new: Sequence[Launch],
    old: Entry | None,
    settings: decision.Settings,
    metric: str,
    standard: float,
    known: Known,
) -> str:
    values = [one.z for one in new]
    middle = sum(values) / len(values)
    sigma = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    text = f"{len(new)} launches, z {middle:+.4f}, sigma {sigma:.2%}"
    if not is_exact(metric):
        narrow = paired(new, known, replace(settings, tolerance=standard))
        seen = known.drift.freedom - PRIOR_FREEDOM
        text += (
            f", drift between occasions {known.drift.sd:.2%} (of {seen + 1:.0f} occasions and the prior):"
            f" {narrow:.0%} slower is found with pairing; without, {settings.tolerance:.0%}"
        )
    if rule(metric).stepped:
        text += f", the reference step takes {math.exp(-middle):.2f} of the candidate's"
    if old is not None:
        found = change(old.launches, new, settings, exact=is_exact(metric))
        text += f", {found.change:+.1%} against the old baseline"
    return text


def _say(text: str) -> None:
    click.echo(text, err=True)
