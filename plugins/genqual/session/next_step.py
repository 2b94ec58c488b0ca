"""The next command after a test that failed or could not be judged, and what it takes. Runs nothing, judges nothing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Final

import pytest

from genqual.cases import Case, Workload
from genqual.session.context import Run
from genqual.session.failure_message import again
from genqual.session.item import timed as timed_by
from genqual.session.options import Options
from genqual.session.outcome import ItemOutcome, VerdictName

REBASE: Final = "5 to 10 min"
"""Eight launches of one model and engine, one rank; README.md and docs/ci.md say the same."""
JUDGE: Final = "1 to 4 min"
"""What the gate takes for a case, where no launch of this run has shown it; docs/ci.md says the same."""


def for_reader(told: ItemOutcome, item: pytest.Item, case: Case, run: Run, *, failed: bool) -> ItemOutcome:
    """What a test told, with its metric and the next command: JUnit and the job summary show both.

    A command that it has already stays: a teardown that fails after the test changes nothing of it.
    """
    timed = timed_by(item)
    told = replace(told, metric=timed[1]) if timed else told
    if told.next or not (failed or told.verdict in ("no_baseline", "no_reference", "inconclusive")):
        return told
    at_most_s = run.gate_at_most_s(case, timed[1]) if timed else None
    test = str(getattr(item, "originalname", item.name))
    if told.verdict == "no_reference":
        return replace(told, next=run.references.next_command(case.model, case.dtype))
    return replace(told, next=next_step(run.options, item.config, case, told.verdict, test, timed, at_most_s))


def next_step(
    options: Options,
    config: pytest.Config,
    case: Case,
    verdict: VerdictName | None,
    test: str,
    timed: tuple[Workload, str] | None = None,
    at_most_s: float | None = None,
) -> str:
    """The command, its minutes behind it as a shell's comment; nothing where the verdict asks for none.

    `verdict` is what the test told, None where it ended without one; `test` is the function's name.
    `timed` is the workload and metric of a test that the gate judges, `at_most_s` the seconds that its most launches
    take here.
    """
    if verdict == "no_baseline" and timed is not None:
        return f"{_rebase(options, case)}  # {REBASE}"
    if verdict in ("inconclusive", "regressed") and timed is not None:
        minutes = JUDGE if at_most_s is None else f"at most {max(1, round(at_most_s / 60))} min"
        return f"{_pytest(config)}{again(options, case, *timed).removeprefix('pytest')}{_reached(options)}  # {minutes}"
    if verdict in ("fail", "inconclusive", None):
        return f"{_pytest(config)} {_one_test(options, case, test)}{_reached(options)}{_started(options)}"
    return ""


def _pytest(config: pytest.Config) -> str:
    """How this run was started: an installed wheel has no `suites` directory."""
    return shlex.join(["pytest", "--pyargs", *config.args]) if config.option.pyargs else "pytest"


def _one_test(options: Options, case: Case, test: str) -> str:
    words = ["-m", case.device, *(["--benchmark"] if options.benchmark else []), f"--profile={options.profile}"]
    words += ["--engine", case.engine, f"--model={case.model}", "--dtype", case.dtype, "--ranks", str(case.ranks)]
    return shlex.join([*words, *_data_set(options), "-k", test])


def _data_set(options: Options) -> list[str]:
    """The user's own prompts, which the properties of a data set read."""
    if options.prompts is None:
        return []
    words = [f"--prompts={options.prompts}"]
    for name, values in (("--batch-sizes", options.batch_sizes), ("--input-lengths", options.input_lengths)):
        words += [name, ",".join(map(str, values))] if values else []
    return [*words, "--new-tokens", str(options.new_tokens)] if options.new_tokens else words


def _rebase(options: Options, case: Case) -> str:
    words = ["genqual", "rebase", "--quick", "--device", case.device]
    words += [f"--profile={options.profile}", f"--model={case.model}"]
    words += ["--engine", case.engine, "--dtype", case.dtype, "--ranks", str(case.ranks)]
    for name, values in (("--batch-sizes", options.batch_sizes), ("--input-lengths", options.input_lengths)):
        words += [name, ",".join(map(str, values))] if values else []
    words += ["--new-tokens", str(options.new_tokens)] if options.new_tokens else []
    words += [f"--out={options.baselines}"] if options.baselines else []
    return shlex.join(words) + _reached(options)


def _reached(options: Options) -> str:
    """How the engine is reached: part of the command, or it would judge another one."""
    given = (
        ("--endpoint", options.endpoint),
        ("--served-model", options.served_model),
        ("--engine-command", options.engine_command),
    )
    words = [word for name, value in given if value is not None for word in (name, value)]
    return f" {shlex.join(words)}" if words else ""


def _started(options: Options) -> str:
    """What starts the ranks, and where: a failure of one launcher or host may be none of another."""
    words = ["--launcher", options.launcher] if options.launcher != "auto" else []
    words += ["--hosts", ",".join(options.hosts)] if options.hosts else []
    if options.launcher_arguments:  # with `=`: they begin with a dash
        words.append(f"--launcher-arguments={shlex.join(options.launcher_arguments)}")
    return f" {shlex.join(words)}" if words else ""
