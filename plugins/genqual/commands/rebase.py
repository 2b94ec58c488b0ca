"""`genqual rebase`: measure new latency baselines with fresh launches, and refuse what would make a bad one."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click

from genqual.commands.rebase_run import RebaseRun, Request
from genqual.devices.registry import devices, processor
from genqual.errors import BadInput
from genqual.gate.baseline_builder import provenance_of
from genqual.gate.case_launches import disturbed_by_xdist
from genqual.gate.decision import GATED
from genqual.gate.launch_plan import QUICK_LAUNCHES, QUICK_S, gated_workloads
from genqual.gate.tolerances import WIDEST
from genqual.paths import data_dir
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
@click.option(
    "--batches", default=2, show_default=True, type=click.IntRange(2), help="Groups of launches, --pause seconds apart."
)
@click.option("--pause", default=20.0, show_default=True, type=click.FloatRange(0), help="Seconds between batches.")
@click.option(
    "--tolerance-up-to",
    type=click.FloatRange(0, 99),
    default=100.0 * WIDEST,
    show_default=True,
    metavar="PERCENT",
    help="A baseline keeps the least tolerance at which the gate's error rates hold here; refuse one that needs more.",
)
@click.option("--quick", is_flag=True, help="Eight launches of each case, within ten minutes; a wider tolerance.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path(".genqual"),
    show_default=True,
    help="Where runs kept their launches, as pytest's option: they tell how much this class drifts.",
)
@click.option("--endpoint", metavar="URL", help="As pytest's option, of --engine server.")
@click.option("--served-model", metavar="NAME", help="As pytest's option.")
@click.option("--engine-command", metavar="COMMAND", help="As pytest's option, of --engine external.")
@click.option("--reason", help="Why; needed where an entry is replaced.")
@click.option("--accept-regression", metavar="REASON", help="Accept that the new baseline is slower, and why.")
@click.option("--author", help="Who; [default: git's user.name]")
@click.option("--commit", help="The commit that was measured. [default: HEAD of the checkout here]")
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write to. [default: genqual's baselines]")
def rebase(device: str, profile: str, **given: Any) -> None:
    """Measure the latency baselines of this hardware class and write them to its file.

    Every launch is a fresh process. Launches that were disturbed are measured again. Each baseline gets the tolerance
    that its launches, and the drift between occasions of this class, can hold; it is printed. Occasions more than a
    quarter of an hour apart tell drift: --batches 5 --pause 1800, and the launches of earlier runs. After an
    interruption the same command goes on where it was, and nothing is held during a pause. A
    metric that became slower, since the last baseline or since the first one ever, needs --accept-regression. What
    is refused keeps its old baseline, or none, and the command ends with 1.

    \b
      genqual rebase --quick --model llama-30m --engine transformers   # within ten minutes
      genqual rebase --batches 5 --pause 1800 --out baselines          # a sounder one: over two hours and a half
      pytest -m xeon --benchmark --gate --baselines=baselines          # then: judge by it
    """
    if disturbed_by_xdist():
        raise BadInput(disturbed_by_xdist())
    if given["out"] is not None and given["out"].exists() and not given["out"].is_dir():
        raise BadInput(f"--out {given['out']}: is a file; name a directory")
    presence = devices()[device].probe()
    if not presence.present:
        raise BadInput(f"--device {device}: {presence.probe} found {presence.found}")
    options = _options(profile, given)
    chosen = profiles.load(profile)
    cases = profiles.plan(
        chosen.performance,
        options,
        device=device,
        cores_per_rank=chosen.cores_per_rank,
        native=devices()[device].native_dtype,
    ).cases
    problems = RebaseRun(
        Request(
            device=device,
            cases=tuple(cases),
            metrics=given["metrics"] or GATED,
            gated=gated_workloads(chosen.workloads(options)),
            launches=QUICK_LAUNCHES if given["quick"] else given["launches"],
            batches=given["batches"],
            pause_s=given["pause"],
            tolerance_up_to=given["tolerance_up_to"] / 100,
            reason=given["reason"],
            accept=given["accept_regression"],
            options=options,
            target=given["out"] or data_dir("baselines") / "latency",
            provenance=provenance_of(
                commit=given["commit"] or _head(),
                author=given["author"] or _git("config", "user.name", option="--author"),
                reason=given["accept_regression"] or given["reason"] or "first baseline",
            ),
            limit_s=QUICK_S if given["quick"] else None,
            state=given["state_dir"].absolute(),
        )
    ).run()
    if problems:
        raise click.ClickException(f"{len(problems)} metrics have no new baseline:\n" + "\n".join(problems))


def _options(profile: str, given: dict[str, Any]) -> Options:
    """What chooses cases and workloads, as pytest's options would."""
    return Options(
        profile=profile,
        **{name: given[name] for name in ("models", "engines", "dtypes", "ranks", "new_tokens")},
        batch_sizes=_numbers("--batch-sizes", given["batch_sizes"]),
        input_lengths=_numbers("--input-lengths", given["input_lengths"]),
        endpoint=_url(given["endpoint"]),
        served_model=given["served_model"],
        engine_command=given["engine_command"],
    )


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


def _head() -> str:
    """The commit that is checked out here, with a word where other code than its own would be measured."""
    commit = _git("rev-parse", "HEAD", option="--commit")
    changed = subprocess.run(
        [str(shutil.which("git")), "status", "--porcelain", "--untracked-files=no", "--", ":/plugins", ":/suites"],
        capture_output=True, text=True, check=False,
    ).stdout.split("\n")  # fmt: skip
    if changed[0].strip():
        click.echo(
            f"warning: {changed[0].strip()} and perhaps more is not committed. The baseline names {commit[:12]}, and"
            " a run that pairs with it builds that commit, not what is measured now. Commit first",
            err=True,
        )
    return commit


def _git(*words: str, option: str) -> str:
    """What git says here. Raises BadInput that names the option to give instead."""
    program = shutil.which("git")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False) if program else None
    if done is None or done.returncode or not done.stdout.strip():
        raise BadInput(f"git {' '.join(words)} says nothing here; give {option}")
    return done.stdout.strip()
