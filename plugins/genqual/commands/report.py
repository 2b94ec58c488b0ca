"""`genqual report`. Reads records and writes one file; measures nothing."""

from __future__ import annotations

from pathlib import Path

import click

from genqual.analysis.compare_read import read
from genqual.analysis.published.prices import prices
from genqual.analysis.published.tables import NAME
from genqual.analysis.report import FORMS
from genqual.analysis.report.write import write
from genqual.errors import BadInput, pip_install
from genqual.faults.matrix.store import Store
from genqual.faults.matrix.tables import FaultMatrix
from genqual.records.record import Record
from genqual.records.redaction import redact
from genqual.storage.push import DEFAULT_UPLOAD


@click.command()
@click.argument("places", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="genqual.html", show_default=True
)
@click.option("--published", is_flag=True, help="Show the published tables beside what was measured.")
@click.option("--prices", "table", type=click.Path(path_type=Path), help="A price table of your own (TOML).")
@click.option(
    "--signed", "sessions", type=click.Path(path_type=Path), multiple=True, help="A signed session; repeatable."
)
@click.option("--key", "keys", type=click.Path(path_type=Path), multiple=True, help="Public key that signed it, PEM.")
@click.option(
    "--detection", type=click.Path(path_type=Path), help="A store of `genqual faults matrix`: what the suite finds."
)
@click.option("--title", default="genqual: which hardware for LLM text generation", show_default=True)
def report(
    places: tuple[str, ...],
    output: Path,
    published: bool,
    table: Path | None,
    sessions: tuple[Path, ...],
    keys: tuple[Path, ...],
    detection: Path | None,
    title: str,
) -> None:
    """Write one HTML file to decide from: it asks no network, and reads without scripts as well.

    \b
    SOURCE is what `genqual compare` takes: a database, a directory, a file, with a selector behind #.
    Without one: sqlite:///.genqual/results.db, where a run leaves its records.
    Signed sessions are looked for in .genqual/signed, and with --signed; --key says whose signature counts.

    \b
    genqual report --published
    genqual report results.db#class=xeon-a postgresql://host/results -o page.html
    genqual report results.db -o rows.csv          the rows alone; .json too
    """
    if output.suffix not in FORMS:
        raise click.UsageError(f"--output {output}: give a name that ends in {', '.join(FORMS)}")
    if not output.absolute().parent.is_dir():
        raise BadInput(f"--output {output}: there is no directory {output.absolute().parent}; make it first")
    names = [*(places or (() if published and not Path(".genqual/results.db").exists() else (DEFAULT_UPLOAD,)))]
    names += [NAME] if published else []
    records = list({one.id: one for name in names for one in read(name)}.values())
    signed = _signatures([*sorted(Path(".genqual/signed").glob("*.jsonl")), *sessions], keys, records)
    sources = [redact(name) for name in names]
    written = write(
        output, records, prices(table), sources=sources, title=title, signatures=signed, detection=_detection(detection)
    )
    click.echo(f"{output}: {written.rows} configurations, {written.bytes / 1e6:.2f} MB")


def _detection(store: Path | None) -> list[tuple[str, str, str]]:
    """By judge: its name, how many faults it found, how many harmless runs it alarmed on. Raises BadInput."""
    if store is None:
        return []
    if not store.is_file():
        raise BadInput(f"--detection {store}: no such file; `genqual faults matrix --store {store}` makes one")
    matrix = FaultMatrix(Store(store).cells.values())
    return [
        (name, f"{found} of {faults}", f"{alarmed} of {right}")
        for name, found, faults, alarmed, right in matrix.judges()
    ]


def _signatures(paths: list[Path], keys: tuple[Path, ...], records: list[Record]) -> dict[str, str]:
    if not paths:
        return {}
    try:
        from genqual.analysis.report.signed import signatures
    except ImportError as error:
        command = pip_install(extra="upload")
        raise BadInput(f"{paths[0]}: reading a signature needs {error.name}: {command}") from None
    return signatures(paths, keys, records)
