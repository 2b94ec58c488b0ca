"""`genqual models`: the models that have a name here, and fetching a real one. Loads no model, imports no torch."""

from __future__ import annotations

import click

from genqual.models.fetch import fetch as get
from genqual.models.registry import known


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
