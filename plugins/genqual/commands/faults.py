"""`genqual faults`: the catalogue of injected faults, one of them at work, and the matrix of what finds them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from genqual.devices.registry import devices, processor
from genqual.dtypes import DTYPES
from genqual.errors import BadInput
from genqual.faults import CATALOGUE, Fault, fault
from genqual.faults.matrix.cases import TINY, MatrixRun, runs_of
from genqual.faults.matrix.page import models_page as page_of_models
from genqual.faults.matrix.page import page
from genqual.faults.matrix.store import FAULT_FREE, MatrixCell, Store
from genqual.faults.matrix.tables import FaultMatrix, draw, titled
from genqual.models.registry import resolve
from genqual.paths import data_dir

STORE: Final = Path(".genqual/detection.jsonl")


def _of_engines(command: Callable[..., None]) -> Callable[..., None]:
    """The options of pytest that some engines cannot run without; passed on as `settings`, words of a command line."""
    for name in ("--served-model", "--endpoint", "--engine-command"):
        command = click.option(name, help="As pytest's, of the engine that needs it.")(command)
    return command


def _settings(given: Mapping[str, str | None]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


_device = click.option(
    "--device",
    default=lambda: processor().name,
    type=click.Choice(list(devices())),
    help="Where faults are put in.  [default: this host's processor]",
)


@click.group("faults")
def faults() -> None:
    """Faults to inject into an engine: what they are, which property finds which, and what survives.

    A verdict is worth what the suite can detect: `genqual faults matrix` measures it.
    """


@faults.command("list")
@click.option("--group", help="Only the faults of this group.")
def list_(group: str | None) -> None:
    """List the catalogue, group by group."""
    groups: dict[str, list[Fault]] = {}
    for one in CATALOGUE.values():
        groups.setdefault(one.group, []).append(one)
    if group is not None and group not in groups:
        raise BadInput(f"--group {group}: the groups are {', '.join(groups)}")
    for name, members in groups.items():
        if group in (None, name):
            click.echo(f"{name}")
            for one in members:
                click.echo(f"  {one.name:<24} {one.summary}{' (equivalent)' if one.equivalent else ''}")
    wrong = sum(not one.equivalent for one in CATALOGUE.values())
    click.echo(
        f"\n{wrong} faults and {len(CATALOGUE) - wrong} equivalent controls; `genqual faults show NAME` says more"
    )


@faults.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Say what NAME does, where it fits, and how to run it."""
    one = fault(name)
    click.echo(f"{one.name}: {one.summary}")
    click.echo(f"  group          {one.group}{', equivalent: it must not alarm' if one.equivalent else ''}")
    click.echo(f"  changes        {one.kind}")
    click.echo(f"  architectures  {', '.join(sorted(one.architectures)) or 'any'}")
    click.echo(f"  engines        {', '.join(sorted(one.engines))}, {one.min_ranks} rank(s) or more")
    click.echo(f"  any other that has {', '.join(sorted(one.wants))}")
    click.echo(f"  dtypes         {', '.join(sorted(one.dtypes)) or 'any'}")
    click.echo(f"  injected by    {one.entry} {one.params or ''}")
    if one.survives:
        click.echo(f"  survives       {one.survives}")
    click.echo(f"\n  genqual faults run {one.name}")


@faults.command("run")
@click.argument("name")
@click.option("--model", help="An embedded model.  [default: the first that the fault fits]")
@click.option("--dtype", default="fp32", show_default=True, type=click.Choice(DTYPES))
@click.option("--engine", help="Engine to put it into.  [default: the first that the fault fits]")
@_device
@_of_engines
def run_one(name: str, model: str | None, dtype: str, engine: str | None, device: str, **settings: str | None) -> None:
    """Put NAME into a live engine, run the conformance suite on it, and say which properties find it.

    Exits with 1 when a fault survives, an equivalent control alarms, or the injector breaks.
    """
    one = fault(name)
    if one.kind == "rank":
        raise BadInput(f"{name} ends or stops a rank: it is a fault of processes, and every test would name its cause")
    _check_present(device)
    ranks = one.min_ranks
    engine = engine or ("transformers" if ranks == 1 and "transformers" in one.engines else sorted(one.engines)[0])
    model = model or next(m for m in TINY if not one.architectures or resolve(m).architecture in one.architectures)
    store = Path(".genqual") / f"fault-{name}.jsonl"
    store.unlink(missing_ok=True)
    judge_with([name], store, engine, ranks, model, dtype, settings=_settings(settings), device=device)
    matrix = FaultMatrix(Store(store).cells.values())
    if not matrix.cells and not matrix.errors:
        raise BadInput(
            f"{name} on {engine} x{ranks}, {model}, {dtype}: nothing was judged, because it does not fit there or the "
            f"case cannot run; `genqual faults show {name}` says where it fits"
        )
    found = [cell for cell in matrix.cells if cell.outcome == "alarm"]
    for cell in found:
        click.echo(f"{titled(cell.check)}: {cell.why}")
    click.echo(f"{name} on {engine} x{ranks}, {model}, {dtype}: {len(found)} of {len(matrix.cells)} checks alarm")
    tell_errors(matrix)
    ours = any(cell.test.startswith("test_") for cell in found)
    sys.exit(bool(matrix.errors) or (ours if one.equivalent else not ours))


@faults.command("matrix")
@click.option("--models", help="Models with a reference.  [default: llama-tiny,bloom-tiny; smollm2-135m in part]")
@click.option(
    "--dtypes",
    help="fp32 is judged in fp32 mode, the others in declared mode.  [default: fp32,bf16; int8-weight in part]",
)
@click.option("--faults", "names", help="Only these, wherever they fit.  [default: all, and fault-free runs]")
@click.option(
    "--sample", is_flag=True, help="The fixed sample, with fault-free and equivalent runs: minutes, for a CI."
)
@click.option("--store", type=click.Path(path_type=Path), default=STORE, show_default=True, help="Cells judged so far.")
@click.option("--out", type=click.Path(path_type=Path), help="Write detection.md and detection.svg to this directory.")
@click.option(
    "--models-page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file what is found on each model, and which of them shows an ignored field, as Markdown.",
)
@click.option("--show", "only_show", is_flag=True, help="Judge nothing: tell, and write, what the store holds.")
@click.option(
    "--until-found",
    is_flag=True,
    help="Leave out the other checks of a fault once one has found it, the likeliest first: what survives, in a "
    "small part of the time, and not which check finds what.",
)
@click.option("--engines", help="Engine:ranks pairs, as transformers:1.  [default: the seven ways of the whole matrix]")
@_device
@_of_engines
def matrix_(
    models: str | None,
    dtypes: str | None,
    names: str | None,
    sample: bool,
    store: Path,
    out: Path | None,
    models_page: Path | None,
    only_show: bool,
    until_found: bool,
    engines: str | None,
    device: str,
    **settings: str | None,
) -> None:
    """Judge every fault with every property, in both modes, and write the matrix.

    The catalogue is tried on plain transformers; tensor parallel, streams, graphs, offload and int8 with faults of
    their own; and all of these, other kernels and a real model too, with nothing wrong.

    Every cell is a line of the store, written when it is judged: a run that was interrupted goes on where it was. Exits
    with 1 when a fault survives without an explanation, a fault-free or equivalent run alarms, or an injector breaks.
    """
    chosen = (
        names.split(",") if names else [FAULT_FREE, *(n for n, one in CATALOGUE.items() if one.sample or not sample)]
    )
    for name in chosen:
        if name != FAULT_FREE:
            fault(name)
    runs: list[MatrixRun] = []
    if not only_show:
        _check_present(device)
        runs = runs_of(engines, models, dtypes)
        for model in {name: None for run in runs for name in run.models}:
            resolve(model)  # what is missing is said before the first hour
        for run in runs:
            for model, dtype in itertools.product(run.models, run.dtypes):
                wanted = [name for name in chosen if names or run.takes(name, model, dtype)]
                judge_with(
                    *(wanted, store, run.engine, run.ranks, model, dtype, run.tests, run.cores),
                    settings=_settings(settings),
                    device=device,
                    until_found=until_found,
                )
    told = list(Store(store).cells.values())
    if engines is not None:  # what a store holds of other engines would excuse what survives on these
        shown = runs_of(engines, models, dtypes)
        told = [cell for cell in told if cell.fault in chosen and any(_of_run(cell, run) for run in shown)]
    matrix = FaultMatrix(told)
    if only_show and not matrix.cells and not matrix.errors:
        raise BadInput(f"{store}: no cell was judged; run it without --show, or give another --store")
    _write_pages(matrix, out, models_page)
    survivors = [name for name in matrix.survivors() if not CATALOGUE[name].survives]
    alarms = matrix.false_alarms()
    click.echo(
        f"{len(matrix.faults)} faults, {len(survivors)} unexplained survivors ({', '.join(survivors) or 'none'}); "
        f"{len(matrix.fault_free())} fault-free judgements, {len(alarms)} false alarms"
    )
    for cell in alarms:
        click.echo(f"  {cell.fault}: {titled(cell.check)} on {cell.engine} {cell.model} {cell.dtype}: {cell.why}")
    tell_errors(matrix)
    wrong = {name for name in chosen if name != FAULT_FREE and not CATALOGUE[name].equivalent}
    # Names alone are tried wherever they fit: on most ways of the whole matrix they do not.
    asked = runs if engines or not names else []
    unproved = [run for run in asked if not proved(matrix, run, wrong, exactly=engines is not None)]
    for run in unproved:
        click.echo(
            f"{run.engine} x{run.ranks} is unproved: no fault could be put into it, so that nothing says what its "
            "verdicts are worth. `EngineSpec.faults` says where faults can be put (docs/extending.md)"
            if wrong and run.faults
            else f"{run.engine} x{run.ranks} is unproved: no property judged it on {', '.join(run.models)} in "
            f"{', '.join(run.dtypes)}, so that nothing says that it passes"
        )
    if runs and not matrix.cells and not matrix.errors and not unproved:
        raise BadInput(f"{store}: nothing was judged; none of {', '.join(chosen)} fits, or no case can run here")
    sys.exit(bool(survivors or alarms or matrix.errors or unproved))


def _write_pages(matrix: FaultMatrix, out: Path | None, models_page: Path | None) -> None:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw(matrix, out / "detection.svg")
        (out / "detection.md").write_text(page(matrix, "detection.svg"), encoding="utf-8")
        click.echo(f"wrote {out / 'detection.md'} and {out / 'detection.svg'}")
    if models_page is not None:
        models_page.parent.mkdir(parents=True, exist_ok=True)
        models_page.write_text(page_of_models(matrix), encoding="utf-8")
        click.echo(f"wrote {models_page}")


def proved(matrix: FaultMatrix, run: MatrixRun, wrong: Collection[str], *, exactly: bool) -> bool:
    """Whether one of the faults `wrong` was judged on the engine of `run`; where none was to be, whether anything was.

    Some ways only prove no alarm. `exactly`: on its models and in its precisions; what a store holds of others says
    nothing of these. A way of the whole matrix may have no fault of its own there.
    """
    judged = {cell.fault for cell in matrix.ours if _of_run(cell, run, exactly=exactly)}
    return bool(judged & set(wrong) if run.faults and wrong else judged)


def _of_run(cell: MatrixCell, run: MatrixRun, *, exactly: bool = True) -> bool:
    """Whether a cell is of this way to run models; `exactly`: of its models and precisions, too."""
    same = (cell.engine, cell.ranks, cell.cores) == (run.engine, run.ranks, run.cores)
    return same and (not exactly or (cell.model in run.models and cell.dtype in run.dtypes))


def _check_present(name: str) -> None:
    """Raise BadInput where the device is absent: every test would be skipped, and what a store holds told instead."""
    found = devices()[name].probe()
    if not found.present:
        raise BadInput(f"--device {name}: absent; {found.probe} found {found.found}")


def tell_errors(matrix: FaultMatrix) -> None:
    """Say what an exception ended, once a fault: an injector that breaks finds nothing, and must be mended."""
    if not matrix.errors:
        return
    click.echo(f"{len(matrix.errors)} errors: an exception, no judgement, ended these checks")
    for name in dict.fromkeys(cell.fault for cell in matrix.errors):
        some = [cell for cell in matrix.errors if cell.fault == name]
        click.echo(f"  {name}: {len(some)} checks, first {titled(some[0].check)} on {some[0].engine}: {some[0].why}")


def judge_with(
    names: Sequence[str],
    store: Path,
    engine: str,
    ranks: int,
    model: str,
    dtype: str,
    tests: Sequence[str] = (),
    cores: int = 1,
    settings: Sequence[str] = (),
    device: str | None = None,
    *,
    until_found: bool = False,
) -> None:
    """Run the suite of one case, or some files of it, in a pytest of its own: each test once a fault that fits.

    `until_found`: each test until one finds the fault.
    """
    architecture = resolve(model).architecture
    fitting = []
    for name in names:
        one = CATALOGUE.get(name)
        fits = one and one.fits(engine=engine, architecture=architecture, ranks=ranks, dtype=dtype)
        if one is None or (one.kind != "rank" and fits):
            fitting.append(name)
    if not fitting:
        return
    click.echo(f"{engine} x{ranks}, {model}, {dtype}: {len(fitting)} faults fit; those not judged yet:", err=True)
    suite = data_dir("suites") / "conformance"
    places = [suite / test for test in tests] or [suite]
    command = [
        *(sys.executable, "-m", "pytest", *(str(place) for place in places), "-p", "genqual.faults.matrix.plugin"),
        *("-m", f"conformance and {device or processor().name}"),
        *("--engine", engine, f"--model={model}", "--dtype", dtype, "--ranks", str(ranks)),
        *("--cores-per-rank", str(cores), *settings),
        *("--faults", ",".join(fitting), "--faults-store", str(store.absolute()), "--no-upload", "--no-shrink"),
        *("--tb=no", "-q", "-q", "--no-summary", "-p", "no:cacheprovider", f"--state-dir={store.absolute()}.state"),
        *(["--faults-until-found"] if until_found else []),
    ]
    # The dots are of no use here; what the plugin says on stderr, a line a fault, is the progress.
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1, 5):  # passed, something failed (that is the point), nothing left to judge
        raise BadInput(f"the suite could not be run: pytest ended with {done.returncode}, and says why above")
