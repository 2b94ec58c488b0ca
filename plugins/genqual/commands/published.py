"""`genqual published`: the tables of the posts as records, and their claims recomputed. Measures nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genqual.analysis.published.claims import claims as recompute
from genqual.analysis.published.prices import prices
from genqual.analysis.published.tables import doubts, published
from genqual.storage.sinks.registry import open_sink


@click.group(name="published")
def group() -> None:
    """The published tables of BLOOM, BLOOMZ and Llama 2: cited, never measured here.

    \b
    genqual published list                          every number with its source and doubts
    genqual published load sqlite:///results.db     put them beside measured records
    genqual published claims                        1.2x, 2.89x, 37.21 % ... from their rows

    `genqual compare` and `genqual report` read them without loading: --published.
    """


@group.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One record a line, as records are kept.")
def list_records(as_json: bool) -> None:
    """Show every published number, with its source and what is doubtful about it."""
    found = published()
    if as_json:
        for record in found:
            click.echo(record.to_bytes().decode())
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("model", "hardware", "engine", "workload", "number", "see"):
        table.add_column(name, overflow="fold")
    notes: list[str] = []
    for record in found:
        metric = record.metrics[0] if record.metrics else None
        remarks = [f"{record.provenance.kind}: {record.provenance.source}", *doubts(record)]
        notes += [remark for remark in remarks if remark not in notes]
        words = (
            record.model.name,
            f"{record.system.used} x {record.system.class_id}",
            f"{record.engine.name} {record.precision.dtype}",
            record.workload.label.removeprefix(f"{record.workload.prompts}-"),
            f"{metric.value:g} {metric.unit}" if metric and metric.value else record.outcome.status.upper(),
            ",".join(str(notes.index(remark) + 1) for remark in remarks),
        )
        table.add_row(*map(Text, words))
    Console().print(table)
    for number, note in enumerate(notes, start=1):
        click.echo(f"[{number}] {note}")


@group.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
def load(urls: tuple[str, ...]) -> None:
    """Send the published records to each URL, such as sqlite:///results.db. Sending them twice changes nothing."""
    found = published()
    for url in urls:
        sink = open_sink(url)
        try:
            new = sink.send(found)
            click.echo(f"{sink.name}: {len(found)} published records, {new} new there")
        finally:
            sink.close()


@group.command()
@click.option("--json", "as_json", is_flag=True, help="JSON, with the ids of both rows.")
@click.option("--prices", "table", type=click.Path(path_type=Path), help="A price table of your own.")
def claims(as_json: bool, table: Path | None) -> None:
    """Recompute the posts' claims, each from its pair of rows, and flag what is unlike in the pair."""
    found = recompute(published(), prices(table))
    if as_json:
        click.echo(json.dumps([{**asdict(claim), "shown": claim.shown} for claim in found], indent=2))
        return
    for claim in found:
        click.echo(f"{claim.name}: {claim.shown} = {claim.formula}: {claim.says}")
        for side in claim.pair:
            click.echo(f"    {side.value:.6g} {side.unit}: {side.what}")
        for flag in claim.flags:
            click.echo(f"    ! {flag}")
