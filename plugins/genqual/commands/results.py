"""`genqual push` and `genqual compare`. Reads and sends records; measures nothing."""

from __future__ import annotations

import os
import sys

import click
from rich.console import Console

from genqual.results.compare import compare as compare_records
from genqual.results.compare_view import as_markdown, as_table
from genqual.results.push import DEFAULT_UPLOAD
from genqual.results.push import push as push_spool
from genqual.results.sinks.urls import redact
from genqual.results.sources import load
from genqual.results.spool import Spool


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--spool", "directory", default=".genqual/spool", show_default=True, help="Where a run left its records.")
@click.option("--again", is_flag=True, help="Send everything, also what the ledger says was sent; changes no record.")
def push(urls: tuple[str, ...], directory: str, again: bool) -> None:
    """Send spooled records to each URL, such as sqlite:///results.db.

    Without a URL: $GENQUAL_UPLOAD, or sqlite:///.genqual/results.db. Sending a record twice changes nothing, so after
    a failure run it again. Damaged files are moved to quarantine/ and reported; the others are sent.
    """
    spool = Spool(directory)
    wanted = urls or (os.environ.get("GENQUAL_UPLOAD", DEFAULT_UPLOAD),)
    if not any(place.exists() for place in spool.places):
        raise click.UsageError(f"{spool.directory} is no spool: give --spool DIR, a run's state directory + /spool")
    report = push_spool(spool, wanted, again=again)
    for line in report.lines():
        click.echo(line)
    if not report.ok or report.set_aside:
        sys.exit(1)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--markdown", is_flag=True, help="Write Markdown, for a pull request.")
def compare(a: str, b: str, markdown: bool) -> None:
    """Put A and B side by side: rows that share model, dtype, workload and metric definition.

    \b
    A and B each name records:
      results.db, sqlite:///results.db    a database
      .genqual/spool                      a directory of records
      record.json, records.jsonl          a file
      results.db#run=3f2a                 one run of it; also class=, device=,
      results.db#class=NAME&dtype=bf16    engine=, model=, dtype=

    A speedup is refused where outputs were wrong or a side is simulated. An interval comes from raw samples.
    """
    found = compare_records(load(a), load(b), (redact(a), redact(b)))
    if markdown:
        click.echo(as_markdown(found), nl=False)
    else:
        Console().print(as_table(found))
