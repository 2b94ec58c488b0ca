"""`genqual models`: the models that have a name here, and fetching a real one. Loads no model, imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genqual.commands.explain import explain
from genqual.models import ggufwrite
from genqual.models.catalogue import Terms
from genqual.models.fetch import fetch as get
from genqual.models.ggufwrite import DTYPES
from genqual.models.registry import known, resolve


@click.group()
def models() -> None:
    """The models that have a name; `--model` also takes a directory, a .gguf file or a hub id."""


models.add_command(explain)


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
@click.option(
    "--accept-terms",
    is_flag=True,
    envvar="GENQUAL_ACCEPT_TERMS",
    show_envvar=True,
    help="Accept the terms of the model's licence; without it they are shown and asked about, on a terminal.",
)
def fetch(name: str, force: bool, accept_terms: bool) -> None:
    """Fetch a real model into the cache directory and check its hash.

    Where a licence has terms of its own, as Gemma's, they are shown before the model is downloaded. A page of them is
    kept beside the model. For a CI: --accept-terms, or GENQUAL_ACCEPT_TERMS=1.
    """

    def accept(terms: Terms, text: str) -> bool:
        if accept_terms:
            click.echo(f"{name}: {terms.title} accepted by --accept-terms or its variable ({terms.address})")
            return True
        click.echo(f"\n{text}\n\nThe newest text: {terms.address}\n")
        return sys.stdin.isatty() and click.confirm(f"Do you accept the {terms.title}?")

    spec = get(name, click.echo, force=force, accept=accept)
    click.echo(f"{name} is ready in {spec.location}; run it with: pytest --model {name}")


@models.command()
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(DTYPES), default=DTYPES[0], show_default=True, help="Of a GGUF's matrices.")
def write(name: str, target: Path, dtype: str) -> None:
    """Write an embedded model for another engine to load.

    TARGET is a directory, which becomes a checkpoint with a tokenizer that any server loads, or a file that ends with
    .gguf, for llama.cpp.
    """
    from genqual.models.token_text import export

    if target.suffix == ".gguf":
        made = ggufwrite.write(resolve(name), target, dtype)
        click.echo(f"{name} is in {made}; docs/examples/llama_cpp_engine.py runs it")
        return
    made = export(resolve(name), target)
    click.echo(f"{name} is in {made}; serve it, then run: pytest --engine server --model {name} --endpoint URL")
