"""`genqual quorum`: nodes of a class by vote. Reads documents of `genqual node`; runs nothing."""

from __future__ import annotations

from pathlib import Path

import click

from genqual.errors import BadInput
from genqual.health import fleet
from genqual.health import signed as node_document
from genqual.health.fleet import Ballot, FleetVerdict


@click.command()
@click.argument("documents", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--json", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write the verdict here, too.")
@click.pass_context
def quorum(context: click.Context, documents: tuple[Path, ...], target: Path | None) -> None:
    """Name the nodes whose numbers are not those of most nodes of their hardware class.

    DOCUMENTS are of `genqual node --level 2` or longer, one a node, signed or not. Their check `quorum` keeps a
    fingerprint of a generation's logits and tokens. Nodes of one class with the same software must have the same. A
    node that computes otherwise, by a wrong bit that no tolerance can see, is named. Where no answer has a majority,
    all are.

    Exit status: 0 every node agrees with others; 1 a node differs, or has nobody to be compared with; 2 it could not
    run.

    \b
      genqual node --level 2 --json results/$(hostname).json      # on each node
      genqual quorum results/*.json
    """
    try:
        verdict = fleet.of([node_document.read(one) for one in documents])
        text = verdict.model_dump_json(indent=2)
        if target is not None:
            _write(target, text)
    except BadInput as error:
        click.echo(f"genqual quorum: could not run: {error}", err=True)
        context.exit(2)
    click.echo(text)
    for line in _told(verdict):
        click.echo(f"genqual quorum: {line}", err=True)
    context.exit(verdict.exit_code)


def _write(target: Path, text: str) -> None:
    try:
        target.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror or error}") from None


def _told(verdict: FleetVerdict) -> list[str]:
    lines = [_of_ballot(one) for one in verdict.ballots if not one.alone]
    lines += [f"{name}: an older document of it was given, too, and left out" for name in verdict.older]
    if verdict.silent:
        lines.append(
            f"compared with nobody: {', '.join(verdict.silent)}; `genqual node --level 2` or longer on two nodes of a "
            "class, with the same software"
        )
    return [*lines, verdict.verdict]


def _of_ballot(one: Ballot) -> str:
    where = f"{one.hardware_class}, {one.check}: {len(one.nodes)} nodes"
    if one.agreed is None:
        return f"{where}, and no answer has a majority: {', '.join(one.odd)}"
    if one.odd:
        return f"{where}; not as most: {', '.join(one.odd)}; take them out of service, and run `genqual node` there"
    return f"{where}, all {one.agreed[:12]}"
