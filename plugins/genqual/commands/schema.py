"""`genqual schema`. Prints; reads nothing but the models."""

from __future__ import annotations

import json

import click

from genqual.records.schema import json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a record, as it stands in every spool, database and object store.

    Redirect it to a file, or read the published one in baselines/schema/. What a schema cannot say: `id` is the
    SHA-256 of the RFC 8785 bytes of the record without `id`, so that anyone can check a record without genqual.
    """
    click.echo(json.dumps(json_schema(), indent=2, sort_keys=True))
