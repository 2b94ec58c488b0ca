"""`genqual export`. Copies records from any source into one file; changes none of them."""

from __future__ import annotations

from pathlib import Path

import click

from genqual.atomic import write_whole
from genqual.errors import BadInput
from genqual.records.redaction import redact
from genqual.storage import parquet
from genqual.storage.sources import load


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def export(source: str, target: Path) -> None:
    """Copy the records of SOURCE into the file TARGET, byte for byte; `compare` and `report` read it again.

    \b
      genqual export 'postgresql://reader@db/genqual#class=NAME' records.parquet
      genqual export .genqual/results.db records.jsonl

    Parquet holds the columns of the index beside each record, for any tool that reads it, and needs
    pyarrow; .jsonl is one record a line.
    """
    records = sorted(load(source), key=lambda record: (record.created, record.id), reverse=True)
    try:
        if target.suffix == ".parquet":
            parquet.write(target, records)
        elif target.suffix == ".jsonl":
            write_whole(target, b"".join(record.to_bytes() + b"\n" for record in records))
        else:
            raise BadInput(f"{target}: give a name that ends in .parquet or .jsonl")
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror or error}") from None
    click.echo(f"{target}: {len(records)} records of {redact(source)}")
