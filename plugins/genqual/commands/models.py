"""`genqual models`: the models that have a name here, and fetching a real one. Loads no model, imports no torch."""

from __future__ import annotations

from pathlib import Path

import click

from genqual.models.fetch import fetch as get
from genqual.models.registry import known, resolve


@click.group()
def models() -> None:
    """The models that have a name; `--model` also takes a directory, a .gguf file or a hub id."""


@models.command(name="list")
def list_models() -> None:
    """Every name, and whether it is here."""
    names = known()
    width = max(map(len, names))
    for name, summary in names.items():
        click.echo(f"{name:<{width}}  {summary}")


@models.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch it again, even if it is here.")
def fetch(name: str, force: bool) -> None:
    """Fetch a real model into the cache directory and check its hash."""
    spec = get(name, click.echo, force=force)
    click.echo(f"{name} is ready in {spec.location}; run it with: pytest --model {name}")


@models.command()
@click.argument("name")
@click.argument("directory", type=click.Path(path_type=Path))
def write(name: str, directory: Path) -> None:
    """Write an embedded model as a checkpoint directory with a tokenizer, for a server or another engine to load."""
    from genqual.models.token_text import export

    made = export(resolve(name), directory)
    click.echo(f"{name} is in {made}; serve it, then run: pytest --engine server --model {name} --endpoint URL")
