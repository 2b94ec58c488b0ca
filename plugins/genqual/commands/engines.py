"""`genqual engines`: every registered engine as `--engine` takes it. Reads facts only; imports no torch."""

from __future__ import annotations

import click

from genqual.engines import registry


@click.command()
def engines() -> None:
    """List the engines, the options they take, and what they cannot do.

    \b
    An option is written behind the name, several with a plus:
      pytest -m xeon --engine accelerate:placement=disk
      pytest -m xeon --engine deepspeed-zero:offload=nvme+nvme_path=scratch --ranks 2
    """
    for spec in registry.engines().values():
        most = "" if spec.max_ranks == spec.min_ranks else f" to {spec.max_ranks}" if spec.max_ranks else " or more"
        click.echo(click.style(spec.name, bold=True))
        click.echo(f"  {spec.summary}")
        click.echo(
            f"  on {', '.join(sorted(spec.devices))}; {spec.min_ranks}{most} rank(s); {', '.join(sorted(spec.dtypes))}"
        )
        for option, what in spec.accepts.items():
            click.echo(f"  :{option}=  {what}")
        for name, reason in (*spec.lacks, *spec.lacks_dtypes):
            click.echo(f"  not {name}: {reason}")
