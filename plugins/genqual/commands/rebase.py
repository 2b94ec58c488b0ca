"""`genqual rebase`: measure new latency baselines with fresh launches, and refuse what would make a bad one."""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from genqual.cases import Case, Workload
from genqual.devices.registry import devices, processor
from genqual.engines.registry import engine
from genqual.errors import BadInput
from genqual.gate import baseline_file, decision
from genqual.gate.baseline_builder import (
    change,
    entry_of,
    merged,
    problem,
    provenance_of,
    slower,
    tolerance_of,
    unfit,
    write,
)
from genqual.gate.baseline_file import Entry, Launch
from genqual.gate.batch_variance import apart
from genqual.gate.case_launches import CaseLaunches, Taken, disturbed_by_xdist, identity_here, subject_of
from genqual.gate.decision import GATED
from genqual.gate.launch_plan import Job, frozen_shape, frozen_source, gated_workloads
from genqual.gate.rebase_state import Unfinished
from genqual.metrics.registry import is_exact, rule
from genqual.models.registry import cache_dir
from genqual.paths import data_dir
from genqual.ranks.client import Generator
from genqual.ranks.group_spec import plan
from genqual.ranks.pool import Pool
from genqual.session import profiles
from genqual.session.option_types import endpoint as endpoint_url
from genqual.session.options import Options


@click.command("rebase")
@click.option(
    "--device",
    default=lambda: processor().name,
    show_default="this host's processor",
    help="The device to measure on.",
)
@click.option("--profile", default="embedded", show_default=True, help="Where cases and workloads come from.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Models; may be repeated. [default: profile's]")
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Engines; may be repeated.")
@click.option("--dtype", "dtypes", multiple=True, metavar="NAME", help="Dtypes; may be repeated.")
@click.option("--ranks", "ranks", multiple=True, type=click.IntRange(1), default=(1,), show_default=True)
@click.option("--batch-sizes", metavar="SIZES", help="As pytest's option: 1,4.")
@click.option("--input-lengths", metavar="LENGTHS", help="As pytest's option: 32,128.")
@click.option("--new-tokens", type=click.IntRange(2), help="As pytest's option.")
@click.option("--metric", "metrics", multiple=True, type=click.Choice(GATED), help="Metrics; may be repeated. [all]")
@click.option("--launches", default=16, show_default=True, type=click.IntRange(8), help="Fresh launches a case.")
@click.option("--batches", default=2, show_default=True, type=click.IntRange(2), help="Made apart in time.")
@click.option("--pause", default=20.0, show_default=True, type=click.FloatRange(0), help="Seconds between batches.")
@click.option(
    "--tolerance-up-to",
    type=click.FloatRange(0, 99),
    default=0.0,
    metavar="PERCENT",
    help="Let a metric that varies too much here have the least tolerance at which the gate's error rates hold, up to"
    " this; the baseline keeps it. [default: each metric's own]",
)
@click.option("--endpoint", metavar="URL", help="As pytest's option, of --engine server.")
@click.option("--served-model", metavar="NAME", help="As pytest's option.")
@click.option("--engine-command", metavar="COMMAND", help="As pytest's option, of --engine external.")
@click.option("--reason", help="Why; needed where an entry is replaced.")
@click.option("--accept-regression", metavar="REASON", help="Accept that the new baseline is slower, and why.")
@click.option("--author", help="Who; [default: git's user.name]")
@click.option("--commit", help="Of what was measured. [default: HEAD of the checkout here]")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write to. [default: genqual's baselines]")
def rebase(
    device: str,
    profile: str,
    models: tuple[str, ...],
    engines: tuple[str, ...],
    dtypes: tuple[str, ...],
    ranks: tuple[int, ...],
    batch_sizes: str | None,
    input_lengths: str | None,
    new_tokens: int | None,
    metrics: tuple[str, ...],
    launches: int,
    batches: int,
    pause: float,
    tolerance_up_to: float,
    endpoint: str | None,
    served_model: str | None,
    engine_command: str | None,
    reason: str | None,
    accept_regression: str | None,
    author: str | None,
    commit: str | None,
    out: Path | None,
) -> None:
    """Measure the latency baselines of this hardware class and write them to its file.

    Every launch is a fresh process. Launches that were disturbed are measured again; a host that varies by more than
    a fifth of a metric's tolerance is refused, and so are batches that differ by more than an eighth, and launches
    whose last four would not pass by the others. Hours of a shared host differ: give it --batches 5 --pause 1800;
    after an interruption the same command goes on where it was, and nothing is held during a pause. A
    metric that became slower, since the last baseline or since the first one ever, needs --accept-regression. What
    is refused keeps its old baseline, or none, and the command ends with 1.
    """
    if disturbed_by_xdist():
        raise BadInput(disturbed_by_xdist())
    options = Options(
        profile=profile,
        models=models,
        engines=engines,
        dtypes=dtypes,
        ranks=ranks,
        batch_sizes=_numbers("--batch-sizes", batch_sizes),
        input_lengths=_numbers("--input-lengths", input_lengths),
        new_tokens=new_tokens,
        endpoint=_url(endpoint),
        served_model=served_model,
        engine_command=engine_command,
    )
    presence = devices()[device].probe()
    if not presence.present:
        raise BadInput(f"--device {device}: {presence.probe} found {presence.found}")
    chosen = profiles.load(profile)
    cases = profiles.plan(
        chosen.performance,
        options,
        device=device,
        cores_per_rank=chosen.cores_per_rank,
        native=devices()[device].native_dtype,
    ).cases
    gated = gated_workloads(chosen.workloads(options))
    target = out or data_dir("baselines") / "latency"
    target.mkdir(parents=True, exist_ok=True)
    class_id = devices()[device].identity().class_id
    identity = identity_here(device)
    known = baseline_file.find(target, class_id)
    who = provenance_of(
        commit=commit or _git("rev-parse", "HEAD", option="--commit"),
        author=author or _git("config", "user.name", option="--author"),
        reason=accept_regression or reason or "first baseline",
    )
    unfinished = Unfinished.of(
        cache_dir() / "rebase",
        {
            "class": class_id,
            "identity": identity,
            "frozen": frozen_source(),
            "commit": who.commit,
            "cases": [str(case) for case in cases],
            "metrics": {metric: gated[metric].id for metric in metrics or GATED},
            "launches": launches,
            "batches": batches,
            **({"settings": options.settings} if options.settings else {}),
        },
    )
    with tempfile.TemporaryDirectory(prefix="genqual-") as logs:
        pool = Pool(1, progress=lambda text: None)
        try:
            made = _measure(
                pool, Path(logs), cases, metrics or GATED, gated, launches, batches, pause, unfinished, options
            )
        except KeyboardInterrupt:
            _say("the launches that are done are kept: the same command goes on after them")
            raise
        finally:
            pool.close_all()
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for lists in made:
        case = lists.generator.case
        unseen = engine(case.engine).unseen
        for metric in metrics or GATED:
            if metric in unseen:
                click.echo(f"{case} {metric}: has no baseline, for it is not judged: {unseen[metric]}")
                continue
            subject = subject_of(case, lists.weights, gated[metric], metric)
            old = known.entry(subject.key) if known else None
            exact = is_exact(metric)
            good, kept = _kept(lists, metric)
            why = next((one.unmeasured[metric] for one in lists.taken if metric in one.unmeasured), "")
            if why:
                problems.append(f"{case} {metric}: {why}")
                continue
            standard = decision.settings_for(metric, case.ranks, hook=_hook(lists) == "steps").tolerance
            settings = decision.settings_for(
                metric, case.ranks, tolerance=tolerance_of(kept, standard, tolerance_up_to / 100)
            )
            where = f"{case} {metric}"
            found = problem(kept, settings, exact=exact)
            if found:
                problems.append(f"{where}: {found}")
                continue
            if old is not None:
                against = _replacing(where, old, kept, settings, metric, reason, accept_regression)
                problems += against
                if against:
                    continue
            entry = entry_of(
                subject,
                kept,
                good,
                lists.job,
                tolerance=None if exact else settings.tolerance,
                identity=identity,
                provenance=who,
                old=old,
            )
            entries[subject.key] = entry
            click.echo(f"{where}: {_told(kept, old, settings, metric)}")
    if entries:
        path = target / f"{class_id}.json"
        write(path, merged(known, class_id, devices()[device].identity().facts, entries))
        click.echo(f"wrote {len(entries)} entries to {path}")
    unfinished.done()
    if problems:
        raise click.ClickException(f"{len(problems)} metrics have no new baseline:\n" + "\n".join(problems))


def _measure(
    pool: Pool,
    logs: Path,
    cases: Sequence[Case],
    metrics: Sequence[str],
    gated: dict[str, Workload],
    launches: int,
    batches: int,
    pause: float,
    unfinished: Unfinished,
    options: Options | None = None,
) -> list[CaseLaunches]:
    """All launches, the batches of the cases in turns, so that those of one case lie apart in time.

    Those that an interrupted run left in `unfinished` are taken over, and each new one is put there.
    """
    made: list[CaseLaunches] = []
    for case in cases:
        spec = engine(case.engine)
        asked = options.of_engine(spec.settings) if options else {}
        generator = Generator(pool, plan(case, logs, options=asked))
        shape = frozen_shape(generator.loaded[0].parameters, case.dtype)
        slowdown = decision.settings_for("tpot", case.ranks).tolerance
        job = Job.of(set(metrics) - set(spec.unseen), gated, shape, slowdown=slowdown, ranks=case.ranks)
        lists = CaseLaunches(generator, job)
        _say(f"{case}: {launches} launches of about {lists.forecast_s:.0f} s; a first one warms the page cache")
        lists.extend()
        if lists.taken[-1].failed:
            raise BadInput(f"{case}: {lists.taken[-1].failed}")
        lists.taken.clear()
        made.append(lists)
    sizes = [launches // batches + (index < launches % batches) for index in range(batches)]
    read = unfinished.read()
    kept = [[read.get((str(x.generator.case), i, x.weights), [])[:size] for x in made] for i, size in enumerate(sizes)]
    taken_over = sum(len(part) for batch in kept for part in batch)
    if taken_over:
        _say(f"going on after {taken_over} launches; delete {unfinished.path} to begin anew")
    start, done, total, fresh = time.monotonic(), 0, launches * len(cases) - taken_over, False
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


def _replacing(
    where: str,
    old: Entry,
    new: Sequence[Launch],
    settings: decision.Settings,
    metric: str,
    reason: str | None,
    accept: str | None,
) -> list[str]:
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


def _told(new: Sequence[Launch], old: Entry | None, settings: decision.Settings, metric: str) -> str:
    values = [one.z for one in new]
    middle = sum(values) / len(values)
    sigma = (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    text = f"{len(new)} launches, z {middle:+.4f}, sigma {sigma:.2%}, batches {apart(new):.2%} apart"
    if not is_exact(metric):
        text += f", tolerance {settings.tolerance:.0%}"
    if rule(metric).stepped:
        text += f", the frozen step takes {math.exp(-middle):.2f} of the candidate's"
    if old is not None:
        found = change(old.launches, new, settings, exact=is_exact(metric))
        text += f", {found.change:+.1%} against the old baseline"
    return text


def _url(text: str | None) -> str | None:
    try:
        return None if text is None else endpoint_url(text)
    except argparse.ArgumentTypeError as error:
        raise BadInput(f"--endpoint {error}") from None


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise BadInput(f"{option} {text}: give whole numbers with commas between, such as 1,4") from None


def _git(*words: str, option: str) -> str:
    """What git says here. Raises BadInput that names the option to give instead."""
    program = shutil.which("git")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False) if program else None
    if done is None or done.returncode or not done.stdout.strip():
        raise BadInput(f"git {' '.join(words)} says nothing here; give {option}")
    return done.stdout.strip()


def _say(text: str) -> None:
    click.echo(text, err=True)
