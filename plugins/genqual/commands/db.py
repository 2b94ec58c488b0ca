"""`genqual db`. Makes and migrates tables; reads and changes no record."""

from __future__ import annotations

import click

from genqual.records.redaction import redact
from genqual.storage.sinks.table import HEAD
from genqual.storage.sinks.upgrade import upgrade, version


@click.group()
def db() -> None:
    """Make or migrate the tables of a database.

    Runs that upload never do this: `genqual db upgrade URL` is run once, by somebody whose user may create tables, and
    again after an upgrade of genqual that says so. Give the password by PGPASSWORD or ~/.pgpass, not in the URL.
    """


@db.command("upgrade")
@click.argument("url")
def upgrade_command(url: str) -> None:
    """Bring the tables at URL to this genqual's version, in one transaction.

    \b
      genqual db upgrade postgresql://qualifier@db.example/genqual
      genqual db upgrade sqlite:///results.db       (one made by an older genqual)
    """
    before, now = upgrade(url)
    what = "nothing to do" if before == now else f"upgraded from {before or 'nothing'}"
    click.echo(f"{redact(url)}: version {now}, {what}")


@db.command("version")
@click.argument("url")
def version_command(url: str) -> None:
    """Say of which version the tables at URL are, and which this genqual writes."""
    click.echo(f"{redact(url)}: version {version(url) or 'none'}; this genqual writes {HEAD}")
