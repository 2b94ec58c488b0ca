"""The next command after a test that failed or could not be judged, and what it takes. Runs nothing, judges nothing."""

from __future__ import annotations

import shlex
from typing import Final

import pytest

from genqual.cases import Case, Workload
from genqual.session.context import Run
from genqual.session.failure_message import again
from genqual.session.options import Options

REBASE: Final = "10 to 20 min"
"""Sixteen launches of one model and engine, one rank; README.md and docs/ci.md say the same."""
JUDGE: Final = "1 to 4 min"
"""What the gate takes for a case, where no launch of this run has shown it; docs/ci.md says the same."""


def for_reader(
    item: pytest.Item, case: Case, run: Run, timed: tuple[Workload, str] | None, *, failed: bool
) -> list[tuple[str, str]]:
    """The metric and the next command of a test, as properties that it has not yet: JUnit and the job summary."""
    known = {str(name): str(value) for name, value in item.user_properties}
    found = [("genqual_metric", timed[1])] if timed and "genqual_metric" not in known else []
    verdict = known.get("genqual_verdict", "")
    if "genqual_next" in known or not (failed or verdict in ("no_baseline", "no_reference", "inconclusive")):
        return found
    # Where nothing was measured there is no gate yet, and none is made for this.
    at_most_s = run.measuring.gate_at_most_s(case, timed[1]) if timed and "measuring" in run.__dict__ else None
    test = str(getattr(item, "originalname", item.name))
    command = next_step(run.options, item.config, case, verdict, test, timed, at_most_s)
    return found + ([("genqual_next", command)] if command else [])


def next_step(
    options: Options,
    config: pytest.Config,
    case: Case,
    verdict: str,
    test: str,
    timed: tuple[Workload, str] | None = None,
    at_most_s: float | None = None,
) -> str:
    """The command, its minutes behind it as a shell's comment; nothing where the verdict asks for none.

    `verdict` as in JUnit's `genqual_verdict`, or empty where a test ended without one; `test` is the function's name.
    `timed` is the workload and metric of a test that the gate judges, `at_most_s` the seconds that its most launches
    take here.
    """
    if verdict == "no_baseline" and timed is not None:
        return f"{_rebase(options, case)}  # {REBASE}"
    if verdict == "no_reference":
        return shlex.join(["genqual", "reference", case.model])
    if verdict in ("inconclusive", "regressed") and timed is not None:
        minutes = JUDGE if at_most_s is None else f"at most {max(1, round(at_most_s / 60))} min"
        return f"{_pytest(config)}{again(options, case, *timed).removeprefix('pytest')}{_reached(options)}  # {minutes}"
    if verdict in ("fail", "inconclusive", ""):
        return f"{_pytest(config)} {_one_test(options, case, test)}{_reached(options)}"
    return ""


def _pytest(config: pytest.Config) -> str:
    """How this run was started: an installed wheel has no `suites` directory."""
    return shlex.join(["pytest", "--pyargs", *config.args]) if config.option.pyargs else "pytest"


def _one_test(options: Options, case: Case, test: str) -> str:
    words = ["-m", case.device, *(["--benchmark"] if options.benchmark else []), f"--profile={options.profile}"]
    words += ["--engine", case.engine, f"--model={case.model}", "--dtype", case.dtype, "--ranks", str(case.ranks)]
    return shlex.join([*words, "-k", test])


def _rebase(options: Options, case: Case) -> str:
    words = ["genqual", "rebase", "--device", case.device, f"--profile={options.profile}", f"--model={case.model}"]
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
