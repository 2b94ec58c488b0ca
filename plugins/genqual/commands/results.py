"""`genqual push`. Reads and sends records; measures nothing."""

from __future__ import annotations

import os
import sys

import click

from genqual.storage.push import DEFAULT_UPLOAD
from genqual.storage.push import push as push_spool
from genqual.storage.spool import Spool


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
        raise click.UsageError(
            f"{spool.directory} is not a spool: give --spool DIR (the run's state directory + /spool)"
        )
    report = push_spool(spool, wanted, again=again)
    for line in report.lines():
        click.echo(line)
    if not report.ok or report.set_aside:
        sys.exit(1)
