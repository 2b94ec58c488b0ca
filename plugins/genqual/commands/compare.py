"""`genqual compare`. Reads records and puts them side by side; measures nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from genqual.analysis import compare_files
from genqual.analysis.compare import Comparison
from genqual.analysis.compare import compare as compare_records
from genqual.analysis.compare_read import read
from genqual.analysis.published.tables import NAME
from genqual.records.record import Record
from genqual.records.redaction import redact

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="A B...")
@click.option("--published", is_flag=True, help="Add the published tables as one more side.")
@click.option("--by", type=click.Choice(["node"]), help="Rank the nodes of a fleet and name outliers; one A is enough.")
@click.option("--markdown", "form", flag_value="markdown", help="Write Markdown, for a pull request.")
@click.option("--csv", "form", flag_value="csv", help="Write CSV, in the records' own units.")
@click.option("--json", "form", flag_value="json", help="Write JSON.")
def compare(places: tuple[str, ...], published: bool, by: str | None, form: str | None) -> None:
    """Put B, and every further one, beside A: rows that share model, dtype, workload and metric definition.

    \b
    Each names records:
      results.db, sqlite:///results.db    a database; postgresql:// too
      .genqual/spool                      a directory of records
      record.json, records.jsonl          a file
      published                           the tables of the posts
      results.db#run=3f2a                 one run of it
      results.db#class=NAME&dtype=bf16    also device=, engine=, model=
      results.db#node=NAME                one host, as records name it
      results.db#commit=1a2b3c            what one commit measured

    A speedup is refused where outputs were wrong, a side is simulated, or what was measured differs; it says in which
    fields. An interval comes from raw samples. Across workloads only MBU and MFU stand side by side.

    \b
    genqual compare results.db#class=xeon-a results.db#class=xeon-b
    genqual compare published#class=a100-80gb published#class=gaudi2
    genqual compare results.db --by node
    """
    names = [*places, *([NAME] if published else [])]
    if by == "node":
        _rank(_together([read(name, every=True) for name in names]), form)
        return
    if len(names) < 2:
        raise click.UsageError("Missing argument 'B'. Give two or more, --published, or --by node")
    first, *others = [(redact(name), read(name)) for name in names]
    _show([compare_records(first[1], records, (first[0], name)) for name, records in others], form)


# What a form needs is imported with it: two classes of a database of a million records are compared within a second,
# half of which is imports.
def _rank(records: list[Record], form: str | None) -> None:
    from genqual.analysis import compare_nodes_view
    from genqual.analysis.compare_nodes import by_node

    fleets = by_node(records)
    if form == "csv":
        click.echo(compare_files.nodes_csv(fleets), nl=False)
    elif form == "json":
        click.echo(compare_files.nodes_json(fleets))
    elif form == "markdown":
        click.echo(compare_nodes_view.as_markdown(fleets), nl=False)
    else:
        _console().print(compare_nodes_view.as_table(fleets))


def _show(found: list[Comparison], form: str | None) -> None:
    if form == "csv":
        click.echo(compare_files.as_csv(found), nl=False)
    elif form == "json":
        click.echo(compare_files.as_json(found))
    elif form == "markdown":
        from genqual.analysis import compare_view

        click.echo("\n".join(compare_view.as_markdown(one) for one in found), nl=False)
    else:
        from genqual.analysis import compare_view

        for number, one in enumerate(found):
            _console().print(*([""] * bool(number)), compare_view.as_table(one))


def _console() -> Console:
    from rich.console import Console

    return Console()


def _together(sides: list[list[Record]]) -> list[Record]:
    """The records of all sides, each once."""
    return list({record.id: record for side in sides for record in side}.values())
