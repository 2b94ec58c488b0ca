"""What can be told of the options before the first test: minutes later it would be told once a test."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from genqual.errors import BadInput
from genqual.gate.other_build import absent
from genqual.models.chat import Message, renderer
from genqual.models.dataset import check_not_empty, is_file, read_prompts
from genqual.models.registry import resolve
from genqual.session.options import Options

LOOKED_AT: Final = 10_000
"""Prompts of a file that are read before the first test: a second, where the model may load for minutes."""

UNRENDERED: Final = "a conversation, which the model's own template renders later"


def check(options: Options) -> None:
    """Raises BadInput on what the run would read or start and that is not there, or not startable there."""
    if options.hosts and options.benchmark:
        raise BadInput("--hosts with --benchmark: baselines and records are of one host; leave one of the two out")
    if len(options.hosts) > 1 and options.launcher not in ("mpirun", "srun"):
        raise BadInput(f"--hosts {','.join(options.hosts)}: give --launcher mpirun or srun, which start ranks there")
    for option, value in (("--references", options.references), ("--waivers", options.waivers)):
        if value is not None and not Path(value).is_dir():
            # It would be judged by less, unsaid.
            raise BadInput(f"{option}={value}: no such directory; check the path, or leave {option} out")
    if options.baselines is not None and not Path(options.baselines).is_dir():
        made = shlex.join(["genqual", "rebase", f"--out={options.baselines}"])
        raise BadInput(f"--baselines={options.baselines}: no such directory; check the path, or make it with `{made}`")
    if options.prompts is not None and is_file(options.prompts):
        _look_through(options.prompts, options.models)
    if options.baseline_from is not None and (reason := absent(options.baseline_from)):
        raise BadInput(f"--baseline-from={options.baseline_from}: {reason}; give a commit, a wheel or an environment")
    if options.engine_command is not None:
        _check_program(options.engine_command)


def of_no_use(options: Options) -> list[str]:
    """The gate's options that change nothing in this run, for the person who expects a verdict on latency."""
    given = {
        "--gate-metrics": options.gate_metrics,
        "--gate-budget": options.gate_budget,
        "--gate-tolerance": options.gate_tolerance,
        "--baseline-from": options.baseline_from,
    }
    names = [name for name, value in given.items() if value]
    if options.benchmark or not names:
        return []
    return [f"{', '.join(names)}: no latency is measured without --benchmark, so there is none to judge"]


def _look_through(source: str, models: Sequence[str]) -> None:
    """Raises BadInput on a bad line among the first prompts of a file, and on one without any.

    Of conversations the first is rendered, by each of `models` that is here: one without a template is told now.
    """
    count, talks = 0, list[Sequence[Message]]()

    def first_talk(messages: Sequence[Message]) -> str:
        talks[:] = talks or [messages]
        return UNRENDERED

    for prompt in islice(read_prompts(source, render=first_talk), LOOKED_AT):
        check_not_empty(prompt)
        count += 1
    if not count:
        raise BadInput(f"--prompts={source}: holds no prompt; give a file with one at least")
    for spec in (resolve(name) for name in models) if talks else ():
        if spec.source != "hub":
            renderer(spec)(talks[0])


def _check_program(command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput(f"--engine-command={command}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise BadInput(
            f"--engine-command={command}: no program {words[0] if words else ''!r} on PATH; give a path that can be "
            "executed, with its arguments in the same quotes"
        )
