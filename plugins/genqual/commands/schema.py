"""`genqual schema`. Prints; reads nothing but the models."""

from __future__ import annotations

import json

import click
from pydantic import BaseModel

from genqual.health.finding import NodeVerdict
from genqual.health.fleet import FleetVerdict
from genqual.records.schema import json_schema


@click.command()
@click.argument("what", type=click.Choice(["record", "node", "fleet"]), default="record")
def schema(what: str) -> None:
    """Print the JSON Schema (draft 2020-12) of a record, or of what `genqual node` or `genqual quorum` (fleet) prints.

    A record is as it stands in every spool, database and object store.

    Redirect it to a file, or read the published one in baselines/schema/. What a schema cannot say: `id` is the
    SHA-256 of the RFC 8785 bytes of the record without `id`, so that anyone can check a record without genqual.
    """
    others: dict[str, type[BaseModel]] = {"node": NodeVerdict, "fleet": FleetVerdict}
    made = others[what].model_json_schema(mode="serialization") if what in others else json_schema()
    click.echo(json.dumps(made, indent=2, sort_keys=True))
