"""The suite's command line: each option declared once, as a field of `Options`. No device or network is touched."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from genqual.cases import Case, Json
from genqual.errors import BadInput
from genqual.gate.admission import UNDER_TEST
from genqual.gate.decision import GATED
from genqual.session.case_options import CaseOptions, option
from genqual.session.option_types import (
    endpoint,
    gate_metrics,
    launcher_name,
    names,
    page,
    positive,
    records,
    share,
    sink,
    words,
)
from genqual.storage.push import DEFAULT_UPLOAD

GROUPS: Final = {
    "what": "what to run (genqual)",
    "workload": "shapes and prompts of the performance suites (genqual)",
    "engine": "how an engine is reached and started (genqual)",
    "judge": "what is judged, and by what (genqual)",
    "results": "where results go (genqual)",
}
"""Groups of `pytest --help`, in its order."""


@dataclass(frozen=True, slots=True)
class Options(CaseOptions):
    """The whole command line, parsed."""

    endpoint: str | None = option(
        "engine",
        "--endpoint",
        "for --engine server: base URL of an OpenAI-compatible server, http://127.0.0.1:8000/v1; a key is read from"
        " GENQUAL_API_KEY only",
        type=endpoint,
        metavar="URL",
    )
    served_model: str | None = option(
        "engine",
        "--served-model",
        "for --engine server: the model's name there; default: the only one that the server lists",
        metavar="NAME",
    )
    prompt_seed: str | None = option(
        "engine",
        "--prompt-seed",
        "for engines whose cache outlives a request (server, external): timed prompts follow from it, each is sent"
        " once; default: another for each session, in the records' labels; a server that has seen a seed knows them",
        metavar="SEED",
    )
    engine_command: str | None = option(
        "engine",
        "--engine-command",
        "for --engine external: the program that generates, driven by JSON lines (docs/engines.md)",
        metavar="COMMAND",
    )
    launcher: str = option(
        "engine",
        "--launcher",
        "what starts the ranks: torchrun, deepspeed, mpirun, srun; default: torchrun for several, none for one",
        "auto",
        type=launcher_name,
        metavar="NAME",
    )
    launcher_arguments: tuple[str, ...] = option(
        "engine",
        "--launcher-arguments",
        "words for the launcher, as a shell splits them: --launcher-arguments='--mca oob_tcp_if_include eth1'",
        (),
        type=words,
        metavar="WORDS",
    )
    hosts: tuple[str, ...] = option(
        "engine",
        "--hosts",
        "with --launcher mpirun or srun: spread the ranks of each group evenly over these hosts, the same processor or"
        " cards in each; groups of one rank stay on this host",
        (),
        type=names,
        metavar="NAMES",
    )
    deadline_scale: float = option(
        "engine",
        "--deadline-scale",
        "multiply the time after which a rank counts as hung: 2 or 0.5; default: %(default)s",
        1.0,
        type=positive("factor", "2"),
        metavar="FACTOR",
    )
    gate: bool = option("judge", "--gate", "for a CI: INCONCLUSIVE, NO BASELINE and NO REFERENCE fail the run", False)
    gate_budget: float | None = option(
        "judge",
        "--gate-budget",
        "what the latency gate may spend on fresh launches in this run; what is undecided then is INCONCLUSIVE;"
        " default: as the profile says",
        type=positive("number of seconds", "120"),
        metavar="SECONDS",
    )
    gate_metrics: tuple[str, ...] = option(
        "judge",
        "--gate-metrics",
        f"the metrics that the latency gate judges, separated by commas, of {', '.join(GATED)}; others are recorded;"
        " default: all",
        (),
        type=gate_metrics,
        metavar="NAMES",
    )
    gate_tolerance: float | None = option(
        "judge",
        "--gate-tolerance",
        "the slowdown of steps that the gate must find where it pairs or launches vary little enough: 3%% or 0.03;"
        " default: 5%% on one rank, 10%% on several",
        type=share,
        metavar="SHARE",
    )
    under_test: str = option(
        "judge",
        "--under-test",
        "the component tested for a slowdown. engine: times are divided by a reference step run in the same process, so"
        " host noise cancels. driver, kernels, node: plain latency, judged on a quiet host only; default: %(default)s",
        "engine",
        choices=UNDER_TEST,
    )
    baselines: str | None = option(
        "judge",
        "--baselines",
        "latency baselines to judge by, as `genqual rebase --out DIR` writes them; default: those of genqual",
        metavar="DIR",
    )
    baseline_from: str | None = option(
        "judge",
        "--baseline-from",
        "judge against another build instead, measured alternately in this run: a commit of this repository, a wheel,"
        " or the directory of a virtual environment; for a CI whose machines change",
        metavar="COMMIT|WHEEL|ENV",
    )
    no_pair: bool = option(
        "judge",
        "--no-pair",
        "never launch the baseline's own commit in turns with today's build; what its file alone leaves open at the"
        " metric's tolerance is then judged by the wider one that the file can hold",
        False,
    )
    references: str | None = option("judge", "--references", "look here first for oracle references", metavar="DIR")
    waivers: str | None = option(
        "judge",
        "--waivers",
        "known failures, one file DEVICE.toml for each device: test, says, issue, expires; default: baselines/waivers",
        metavar="DIR",
    )
    explore: bool = option(
        "judge",
        "--explore",
        "for a nightly: draw more inputs, at random, and keep what failed below the state directory; without it every"
        " run draws the same inputs",
        False,
    )
    no_shrink: bool = option(
        "judge", "--no-shrink", "report the first drawn input that fails instead of looking for the smallest", False
    )
    upload: tuple[str, ...] = option(
        "results",
        "--upload",
        f"where records go after they are spooled; may be repeated; default: $GENQUAL_UPLOAD or {DEFAULT_UPLOAD}",
        (),
        action="append",
        type=sink,
        metavar="URL",
    )
    no_upload: bool = option("results", "--no-upload", "spool records, send them nowhere", False)
    require_upload: bool = option("results", "--require-upload", "a failed upload fails the run", False)
    compare_to: str | None = option(
        "results",
        "--compare-to",
        "compare this run with other records when it ends, as `genqual compare` does: a database, directory or file, or"
        " published, each with an optional selector (#class=NAME, #run=, #commit=); changes no verdict",
        type=records,
        metavar="SOURCE",
    )
    report: str | None = option(
        "results",
        "--report",
        "write this run's page when it ends (FILE.html, beside the published tables; .csv or .json: its rows)",
        type=page,
        metavar="FILE",
    )
    summary_markdown: str | None = option(
        "results",
        "--summary-markdown",
        "add a table of the verdicts, in Markdown, to the end of FILE; default: $GITHUB_STEP_SUMMARY where it is set."
        " Under GITHUB_ACTIONS=true failures and what was not judged are annotated as well",
        metavar="FILE",
    )
    state_dir: str = option(
        "results", "--state-dir", "spool, logs and generated pairs; default: %(default)s", ".genqual", metavar="DIR"
    )

    @property
    def uploads(self) -> tuple[str, ...]:
        """The sinks of this run: those named, else the environment's, else the embedded database."""
        return () if self.no_upload else self.upload or (os.environ.get("GENQUAL_UPLOAD", DEFAULT_UPLOAD),)

    @property
    def shrink(self) -> bool:
        """Whether the smallest failing input is looked for."""
        return not self.no_shrink

    @property
    def settings(self) -> dict[str, Json]:
        """What the command line says to engines, by option key; an engine is given the keys that its spec names."""
        given = {"endpoint": self.endpoint, "served_model": self.served_model, "command": self.engine_command}
        return {key: value for key, value in given.items() if value is not None}

    def of_engine(self, settings: Iterable[tuple[str, str]]) -> dict[str, Json]:
        """What the command line says to an engine with these settings; the served model goes with its endpoint."""
        wanted = {key for key, _ in settings}
        wanted |= {"served_model"} if "endpoint" in wanted else set()
        return {key: value for key, value in self.settings.items() if key in wanted}

    def lacking(self, settings: Iterable[tuple[str, str]], engine: str) -> str | None:
        """Why `engine` cannot run without what was not given, or None."""
        for key, how in settings:
            if key not in self.settings:
                return f"{engine} needs {how}"
        return None

    def ranks_per_host(self, case: Case) -> int:
        """Ranks of a case that one host runs. Raises BadInput where `--hosts` cannot share them evenly."""
        hosts = len(self.hosts) if case.ranks > 1 else 1
        if case.ranks % max(1, hosts):
            raise BadInput(f"--hosts: {case.id} has {case.ranks} ranks, which {hosts} hosts cannot share evenly")
        return case.ranks // max(1, hosts)

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Read the options from pytest's configuration."""
        get: Callable[[str], Any] = config.getoption
        values = {one.name: get(_destination(one.metadata["flag"])) for one in dataclasses.fields(cls)}
        values["upload"] = tuple(values["upload"] or ())
        return cls(**values)


def _destination(flag: str) -> str:
    return f"genqual_{flag.removeprefix('--').replace('-', '_')}"


def add_options(parser: pytest.Parser) -> None:
    """Declare the options in groups of their own in `pytest --help`."""
    groups = {name: parser.getgroup(f"genqual-{name}", title) for name, title in GROUPS.items()}
    for one in dataclasses.fields(Options):
        how = dict(one.metadata["how"])
        if how.get("action") == "append":
            how["default"] = None  # argparse would append to a default
        groups[one.metadata["group"]].addoption(one.metadata["flag"], dest=_destination(one.metadata["flag"]), **how)


PATH_OPTIONS = (
    *("--baseline-from", "--baselines", "--compare-to", "--model", "--profile", "--prompts", "--references"),
    *("--report", "--served-model", "--state-dir", "--summary-markdown", "--waivers"),
)


def misread_path(config: pytest.Config) -> str:
    """Why this command line lost the project's settings, or nothing.

    pytest looks for its settings before plugins are known, and takes an existing path after a space for a test
    directory: `--model /data/llama` would move the root there, and collect everything.
    """
    args, here = config.invocation_params.args, config.invocation_params.dir
    if config.inipath is not None or not (here / "pyproject.toml").is_file():
        return ""
    for flag, value in itertools.pairwise(args):
        if flag in PATH_OPTIONS and (here / str(value)).exists():
            return f"{flag} {value}: write {flag}={value}; after a space pytest takes a path for a test directory"
    return ""
