"""`genqual links`: what the links between hosts carry, whether rightly, and which of them is slow."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import click

from genqual.errors import GenqualError
from genqual.health.link_check import ROUNDS, LinkReport, check_links, link_plan
from genqual.health.links import pairs
from genqual.ranks.client import Generator
from genqual.ranks.errors import GroupLost
from genqual.ranks.pool import Pool


@click.command()
@click.option("--hosts", required=True, help="At least two, separated by commas; a rank is started on each.")
@click.option("--launcher", type=click.Choice(["mpirun", "srun"]), default="mpirun", show_default=True)
@click.option("--launcher-arguments", default="", help="Words for the launcher, as a shell splits them.")
@click.option("--rounds", type=click.IntRange(min=100), default=ROUNDS, show_default=True, help="More see less.")
@click.pass_context
def links(context: click.Context, hosts: str, launcher: str, launcher_arguments: str, rounds: int) -> None:
    """Send integers with known sums between all pairs of hosts, over gloo, and compare how long they take.

    A link is named where it is surely slower than the others of the same run by more than 2 %; that needs three hosts.
    Links that are all slow name nobody: read the rates.

    Exit status: 0 all messages right and no link slow; 1 a message was wrong, a link is slow, or a host was lost;
    2 it could not run.
    """
    words = tuple(shlex.split(launcher_arguments))
    named = tuple(name.strip() for name in hosts.split(",") if name.strip())
    with tempfile.TemporaryDirectory(prefix="genqual-links-") as folder:
        pool = Pool(1, progress=lambda text: click.echo(text, err=True))
        try:
            report = check_links(Generator(pool, link_plan(named, Path(folder), launcher, words)), rounds)
        except GroupLost as lost:
            click.echo(f"genqual links: {lost.headline}")
            context.exit(1)
        except GenqualError as error:
            click.echo(f"genqual links: could not run: {error}", err=True)
            context.exit(2)
        finally:
            pool.close_all()
    context.exit(tell(report))


def tell(report: LinkReport) -> int:
    """Print the report. Returns the exit status."""
    for pair in pairs(len(report.names)):
        names = " - ".join(report.names[number] for number in pair)
        click.echo(f"{names}: {report.gbit_s(pair):.2f} Gbit/s")
    for said in report.wrong:
        click.echo(f"wrong: {said}")
    if report.wrong_messages:
        click.echo(f"{report.wrong_messages} messages were wrong")
    compared = report.links
    if compared is None:
        click.echo("two hosts have one link, and nothing to compare it with: no link can be named")
        return int(report.wrong_messages > 0)
    for one in (*compared.slow_hosts, *compared.slow_paths):
        click.echo(f"slow: {one.entity}: {one.slower:+.1%} ({one.low:+.1%} to {one.high:+.1%}) of the others' time")
    if not compared.named:
        click.echo(f"no link is slow (a false alarm in at most {compared.false_alarm:.2%} of runs)")
    return int(bool(compared.named) or report.wrong_messages > 0)
