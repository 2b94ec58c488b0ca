"""The suite's command line: what each option accepts, checked where it is read. No device or network is touched."""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from genqual.analysis.published.tables import NAME
from genqual.analysis.report import FORMS as PAGE_FORMS
from genqual.cases import PRECISIONS, Json
from genqual.errors import BadInput, GenqualError, pip_install
from genqual.gate.admission import UNDER_TEST
from genqual.models.dataset import is_file, read_prompts
from genqual.ranks.launchers import launcher
from genqual.storage.push import DEFAULT_UPLOAD
from genqual.storage.sinks.registry import open_sink
from genqual.storage.sources import FORMS


def _names(text: str) -> tuple[str, ...]:
    """A comma-separated list of names, at least one, in the order given."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; give one name or several, with commas between")
    return names


def _counts(what: str) -> Callable[[str], tuple[int, ...]]:
    """A parser for comma-separated whole numbers of at least 1."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            counts = tuple(int(part) for part in _names(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} names no {what}; give for example 1,8,32") from None
        if min(counts) < 1:
            article = "an" if what[0] in "aeiou" else "a"
            raise argparse.ArgumentTypeError(f"{min(counts)} cannot be {article} {what}; the smallest is 1")
        return counts

    return parse


def _count(what: str) -> Callable[[str], int]:
    """A parser for one whole number of at least 1."""

    def parse(text: str) -> int:
        counts = _counts(what)(text)
        if len(counts) != 1:
            raise argparse.ArgumentTypeError(f"{text!r}: give one {what}")
        return counts[0]

    return parse


def _dtypes(text: str) -> tuple[str, ...]:
    for name in _names(text):
        if name not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is not a dtype that genqual knows: {', '.join(PRECISIONS)}")
    return _names(text)


def _sink(text: str) -> str:
    """A URL that a sink takes; nothing is connected to."""
    try:
        open_sink(text).close()
    except GenqualError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def endpoint(text: str) -> str:
    """The base URL of an OpenAI-compatible server, without anything secret in it. Raises argparse.ArgumentTypeError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{shown(text)!r} is no http(s) URL; give for example http://127.0.0.1:8000/v1"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"{shown(text)!r}: only scheme, host, port and path are taken; give a key as GENQUAL_API_KEY in the "
            "environment, so that it stands in no log"
        )
    return text


def shown(url: str) -> str:
    """`url` with nothing in it that may be a secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _records(text: str) -> str:
    """A source of records that can be there; it is read when the run ends."""
    place = text.partition("#")[0]
    if place != NAME and "://" not in place and not Path(place).expanduser().exists():
        raise argparse.ArgumentTypeError(f"{text}: there is no {place}. Give {NAME}, or {FORMS}")
    return text


def _page(text: str) -> str:
    """A file that a report can be written to, checked before an hour of measuring."""
    path = Path(text)
    if path.suffix not in PAGE_FORMS:
        raise argparse.ArgumentTypeError(f"{text}: give a name that ends in {', '.join(PAGE_FORMS)}")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no directory {path.absolute().parent}; make it first")
    missing = [name for name in ("altair", "vl_convert", "jinja2") if find_spec(name) is None]
    if missing and path.suffix == ".html":
        raise argparse.ArgumentTypeError(f"{text}: a page needs {', '.join(missing)}: {pip_install(extra='report')}")
    return text


def _factor(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not (math.isfinite(factor) and factor > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a factor; give a number above 0, such as 2")
    return factor


def _launcher(text: str) -> str:
    if text != "auto":
        try:
            launcher(text)
        except BadInput as reason:
            raise argparse.ArgumentTypeError(str(reason)) from None
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds above 0, such as 120")
    return seconds


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, parsed. Empty tuples and None mean: as the profile says."""

    profile: str = "embedded"
    benchmark: bool = False
    miniature: bool = False
    engines: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    cores_per_rank: int | None = None
    batch_sizes: tuple[int, ...] = ()
    input_lengths: tuple[int, ...] = ()
    new_tokens: int | None = None
    instances: int = 1
    prompts: str | None = None
    references: str | None = None
    uploads: tuple[str, ...] = field(default=())
    require_upload: bool = False
    allow_absent: bool = False
    compare_to: str | None = None
    report: str | None = None
    gate: bool = False
    gate_budget: float | None = None
    under_test: str = "engine"
    baselines: str | None = None
    baseline_from: str | None = None
    launcher: str = "auto"
    deadline_scale: float = 1.0
    state_dir: str = ".genqual"
    waivers: str | None = None
    explore: bool = False
    shrink: bool = True
    endpoint: str | None = None
    served_model: str | None = None
    prompt_seed: str | None = None
    engine_command: str | None = None

    @property
    def own_workloads(self) -> bool:
        """Whether an option replaces batch sizes or lengths of the profile."""
        return bool(self.batch_sizes or self.input_lengths or self.new_tokens)

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

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Read the options from pytest's configuration."""
        get = config.getoption
        uploads: list[str] = get("genqual_upload") or [os.environ.get("GENQUAL_UPLOAD", DEFAULT_UPLOAD)]
        return cls(
            profile=get("genqual_profile"),
            benchmark=get("genqual_benchmark"),
            miniature=get("genqual_miniature"),
            engines=get("genqual_engine") or (),
            models=get("genqual_model") or (),
            dtypes=get("genqual_dtype") or (),
            ranks=get("genqual_ranks") or (),
            cores_per_rank=get("genqual_cores_per_rank"),
            batch_sizes=get("genqual_batch_sizes") or (),
            input_lengths=get("genqual_input_lengths") or (),
            new_tokens=get("genqual_new_tokens"),
            instances=get("genqual_instances"),
            prompts=get("genqual_prompts"),
            references=get("genqual_references"),
            uploads=() if get("genqual_no_upload") else tuple(uploads),
            require_upload=get("genqual_require_upload"),
            allow_absent=get("genqual_allow_absent"),
            compare_to=get("genqual_compare_to"),
            report=get("genqual_report"),
            gate=get("genqual_gate"),
            gate_budget=get("genqual_gate_budget"),
            under_test=get("genqual_under_test"),
            baselines=get("genqual_baselines"),
            baseline_from=get("genqual_baseline_from"),
            launcher=get("genqual_launcher"),
            deadline_scale=get("genqual_deadline_scale"),
            state_dir=get("genqual_state_dir"),
            endpoint=get("genqual_endpoint"),
            served_model=get("genqual_served_model"),
            prompt_seed=get("genqual_prompt_seed"),
            engine_command=get("genqual_engine_command"),
            waivers=get("genqual_waivers"),
            explore=get("genqual_explore"),
            shrink=not get("genqual_no_shrink"),
        )


def add_options(parser: pytest.Parser) -> None:
    """Declare the options in a group of their own in `pytest --help`."""
    group = parser.getgroup("genqual", "qualify hardware and engines for LLM text generation (genqual)")
    add = group.addoption
    add("--benchmark", dest="genqual_benchmark", action="store_true", help="run the performance suites too")
    add(
        "--profile",
        dest="genqual_profile",
        default="embedded",
        metavar="NAME|FILE",
        help="what to run: a profile that genqual ships (embedded, realistic, bloom-176b, bloomz-7b,"
        " llama2-intel, ...) or a TOML file; default: %(default)s",
    )
    add(
        "--miniature",
        dest="genqual_miniature",
        action="store_true",
        help="run a profile of large models on embedded ones: same engines, precisions, batches and lengths",
    )
    add(
        "--engine",
        dest="genqual_engine",
        type=_names,
        metavar="NAMES",
        help="engines, each with options of its own where wanted: transformers,accelerate:placement=disk (several"
        " options with +); `genqual engines` lists them",
    )
    add(
        "--model",
        dest="genqual_model",
        type=_names,
        metavar="NAMES",
        help="models: an embedded or fetched name (see `genqual models list`), a directory, a .gguf file or a hub id",
    )
    add("--dtype", dest="genqual_dtype", type=_dtypes, metavar="NAMES", help=f"any of {', '.join(PRECISIONS)}")
    add("--ranks", dest="genqual_ranks", type=_counts("rank count"), metavar="COUNTS", help="ranks a group: 1,2,8")
    add(
        "--cores-per-rank",
        dest="genqual_cores_per_rank",
        type=_count("core count"),
        metavar="N",
        help="cores that each rank is bound to, and its threads; default: the profile's, 1 where it says nothing",
    )
    add(
        "--batch-sizes",
        dest="genqual_batch_sizes",
        type=_counts("batch size"),
        metavar="SIZES",
        help="rows generated at once, of the performance suites: 1,4,16",
    )
    add(
        "--input-lengths",
        dest="genqual_input_lengths",
        type=_counts("input length"),
        metavar="LENGTHS",
        help="input tokens a row, of the performance suites: 32,128",
    )
    add(
        "--new-tokens",
        dest="genqual_new_tokens",
        type=_count("count of new tokens"),
        metavar="N",
        help="tokens generated a row, of the performance suites and of --prompts",
    )
    add(
        "--instances",
        dest="genqual_instances",
        type=_count("count of instances"),
        default=1,
        metavar="N",
        help="with --benchmark: run each case in N independent instances at the same time as well, each on cores of its"
        " own; TPOT of the slowest and tokens a second of all together; default: %(default)s, which asks for no such"
        " test",
    )
    add(
        "--prompts",
        dest="genqual_prompts",
        metavar="SOURCE",
        help="dataset mode: a file (.jsonl, .json, .txt, .csv, .tsv or .parquet, also packed by gzip), with an optional"
        " :column or path (:messages, :conversations.0.value), or a `datasets` name; every prompt is generated from, in"
        " order, and the pairs are kept (an interrupted run resumes)",
    )
    add(
        "--endpoint",
        dest="genqual_endpoint",
        type=endpoint,
        metavar="URL",
        help="of --engine server: base URL of an OpenAI-compatible server, http://127.0.0.1:8000/v1; a key is read from"
        " GENQUAL_API_KEY only",
    )
    add(
        "--served-model",
        dest="genqual_served_model",
        metavar="NAME",
        help="of --engine server: the model's name there; default: the only one that the server lists",
    )
    add(
        "--prompt-seed",
        dest="genqual_prompt_seed",
        metavar="SEED",
        help="of engines whose cache outlives a request (server, external): timed prompts follow from it, each is sent"
        " once; default: another for each session, in the records' labels. A server that has seen a seed knows its"
        " prompts",
    )
    add(
        "--engine-command",
        dest="genqual_engine_command",
        metavar="COMMAND",
        help="of --engine external: the program that generates, spoken to in JSON lines (docs/engines.md)",
    )
    add("--references", dest="genqual_references", metavar="DIR", help="look here first for oracle references")
    add(
        "--upload",
        dest="genqual_upload",
        action="append",
        type=_sink,
        metavar="URL",
        help=f"where records go after they are spooled; may be repeated; default: $GENQUAL_UPLOAD or {DEFAULT_UPLOAD}",
    )
    add("--no-upload", dest="genqual_no_upload", action="store_true", help="spool records, send them nowhere")
    add("--require-upload", dest="genqual_require_upload", action="store_true", help="a failed upload fails the run")
    add(
        "--compare-to",
        dest="genqual_compare_to",
        type=_records,
        metavar="SOURCE",
        help="put this run beside other records when it ends, as `genqual compare` does: a database, directory or file,"
        " published, each with an optional selector (#class=NAME, #run=, #commit=); changes no verdict",
    )
    add(
        "--report",
        dest="genqual_report",
        type=_page,
        metavar="FILE",
        help="write this run's page when it ends (FILE.html, beside the published tables; .csv or .json: its rows)",
    )
    add(
        "--allow-absent",
        dest="genqual_allow_absent",
        action="store_true",
        help="a device named in -m may be absent; without this, a run that judged nothing on it ends non-zero",
    )
    add(
        "--gate",
        dest="genqual_gate",
        action="store_true",
        help="for a CI: INCONCLUSIVE, NO BASELINE and NO REFERENCE fail",
    )
    add(
        "--gate-budget",
        dest="genqual_gate_budget",
        type=_seconds,
        metavar="SECONDS",
        help="what the latency gate may spend on fresh launches in this run; what is undecided then is INCONCLUSIVE;"
        " default: as the profile says",
    )
    add(
        "--under-test",
        dest="genqual_under_test",
        choices=UNDER_TEST,
        default="engine",
        help="what may have become slower: the engine (judged against a frozen step beside it, so that the host"
        " cancels), or the driver, the kernels or the node (judged by plain latency, on a quiet host only);"
        " default: %(default)s",
    )
    add(
        "--baselines",
        dest="genqual_baselines",
        metavar="DIR",
        help="latency baselines to judge by, as `genqual rebase --out DIR` writes them; default: those of genqual",
    )
    add(
        "--baseline-from",
        dest="genqual_baseline_from",
        metavar="COMMIT|WHEEL|ENV",
        help="judge against another build instead, measured alternately in this run: a commit of this repository, a"
        " wheel, or the directory of a virtual environment; for a CI whose machines change",
    )
    add(
        "--waivers",
        dest="genqual_waivers",
        metavar="DIR",
        help="known failures, a file DEVICE.toml each: test, says, issue, expires; default: those of baselines/waivers",
    )
    add(
        "--explore",
        dest="genqual_explore",
        action="store_true",
        help="for a nightly: draw inputs at random and more of them, and keep what failed below the state directory;"
        " without it the same inputs are drawn in every run",
    )
    add(
        "--no-shrink",
        dest="genqual_no_shrink",
        action="store_true",
        help="report the first drawn input that fails instead of looking for the smallest",
    )
    add(
        "--launcher",
        dest="genqual_launcher",
        type=_launcher,
        default="auto",
        metavar="NAME",
        help="what starts the ranks: torchrun, deepspeed, mpirun, srun; default: torchrun for several, none for one",
    )
    add(
        "--deadline-scale",
        dest="genqual_deadline_scale",
        type=_factor,
        default=1.0,
        metavar="FACTOR",
        help="stretch (2) or shorten (0.5) what a rank may take before it counts as hung; default: %(default)s",
    )
    add(
        "--state-dir",
        dest="genqual_state_dir",
        default=".genqual",
        metavar="DIR",
        help="spool, logs and generated pairs; default: %(default)s",
    )
    add(
        "--simulate",
        dest="genqual_simulate",
        action="store_true",
        help="with -m hpu: simulated Gaudis, CPU arithmetic under a stand-in for Habana's packages, of a checkout;"
        " records say `simulated` and are not compared; GENQUAL_SIMULATED_CARDS=N for fewer than 8",
    )


PATH_OPTIONS = (
    *("--baseline-from", "--baselines", "--compare-to", "--model", "--profile", "--prompts", "--references"),
    *("--report", "--served-model", "--state-dir", "--waivers"),
)


def misread_path(config: pytest.Config) -> str:
    """Why this command line lost the project's settings, or nothing.

    pytest looks for its settings before plugins are known, and takes an existing path after a space for a test
    directory: `--model /data/llama` would move the root there, and collect everything.
    """
    args, here = config.invocation_params.args, config.invocation_params.dir
    if config.inipath is not None or not (here / "pyproject.toml").is_file():
        return ""
    for option, value in itertools.pairwise(args):
        if option in PATH_OPTIONS and (here / str(value)).exists():
            return f"{option} {value}: write {option}={value}; after a space pytest takes a path for a test directory"
    return ""


def check_paths(options: Options) -> None:
    """Raises BadInput on a path that the run would read and that is not there: it would be judged by less, unsaid."""
    for option, value in (("--references", options.references), ("--waivers", options.waivers)):
        if value is not None and not Path(value).is_dir():
            raise BadInput(f"{option}={value}: no such directory; check the path, or leave {option} out")
    if options.prompts is not None and is_file(options.prompts):
        read_prompts(options.prompts)
