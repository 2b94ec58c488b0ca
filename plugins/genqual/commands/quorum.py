"""`genqual quorum`: nodes of a class by vote. Reads documents of `genqual node`; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from genqual.atomic import write_asked
from genqual.devices.simulated import PREFIX
from genqual.errors import BadInput
from genqual.health import fleet
from genqual.health import signed as node_document
from genqual.health.finding import NodeVerdict
from genqual.health.fleet import Ballot, FleetVerdict

_SHOWN: Final = 20  # of files or nodes that are named one by one; the document has all


@click.command()
@click.argument("documents", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--expect", type=click.IntRange(2), help="How many nodes there should be: fewer are no pass.")
@click.option("--json", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write the verdict here, too.")
@click.pass_context
def quorum(context: click.Context, documents: tuple[Path, ...], expect: int | None, target: Path | None) -> None:
    """Name the nodes whose numbers are not those of most nodes of their hardware class.

    DOCUMENTS are of `genqual node --level 2` or longer, signed or not; signatures are `genqual verify`'s. Their check
    `quorum` keeps a fingerprint of a generation's logits and tokens. Nodes of one class with the same software must
    have the same. A node that computes otherwise, by a wrong bit that no tolerance can see, is named. Where no answer
    has a majority, all are. A node that is unfit by its own document does not vote. Nodes are told apart by the name in
    their documents: a host under two names votes twice.

    Exit status: 0 every node is fit and agrees with others; 1 a node differs, is unfit, is missing, or has nobody to be
    compared with; 2 a file could not be read or written. The others are voted on all the same.

    \b
      genqual node --level 2 --json results/$(hostname).json      # on each node
      genqual quorum results/*.json --expect 64
    """
    read, unread = _read(documents)
    if not read:
        _say([*unread, "no document could be read"])
        context.exit(2)
    verdict = fleet.of(read, expect)
    text = verdict.model_dump_json(indent=2)
    click.echo(text)
    if target is not None and (problem := _write(target, text, documents)):
        unread.append(problem)
    _say([*_told(verdict), *unread])
    context.exit(2 if unread else verdict.exit_code)


def _read(documents: Sequence[Path]) -> tuple[list[NodeVerdict], list[str]]:
    """The documents, and a line for each file that is none."""
    read, unread = list[NodeVerdict](), list[str]()
    for path in documents:
        try:
            read.append(node_document.read(path))
        except BadInput as error:
            unread.append(f"could not read {error}")
    return read, unread


def _write(target: Path, text: str, documents: Sequence[Path]) -> str:
    """Why the verdict could not be written; empty where it was."""
    if target.resolve() in {one.resolve() for one in documents}:
        return f"could not write --json {target}: it is one of the documents"
    try:
        write_asked(target, text.encode() + b"\n")
    except OSError as error:
        return f"could not write --json {target}: {error.strerror or error}"
    return ""


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"genqual quorum: {line}", err=True)


def _told(verdict: FleetVerdict) -> list[str]:
    lines = [_of_ballot(one) for one in verdict.ballots if not one.alone]
    lines += [f"unfit by its own document: {name}: {reason}" for name, reason in list(verdict.unfit.items())[:_SHOWN]]
    if verdict.older:
        lines.append(f"an older fingerprint was given, too, and left out: {_names(verdict.older)}")
    if verdict.silent:
        lines.append(
            f"compared with nobody: {_names(verdict.silent)}; `genqual node --level 2` or longer on two nodes of a "
            "class, with the same software"
        )
    if verdict.expected is not None and verdict.nodes < verdict.expected:
        lines.append(f"{verdict.nodes} nodes of {verdict.expected}: the documents of the others are missing")
    return [*lines, f"{verdict.verdict}, {verdict.nodes} nodes"]


def _of_ballot(one: Ballot) -> str:
    simulated = " (simulated cards)" if one.hardware_class.startswith(PREFIX) else ""
    where = f"{one.hardware_class}{simulated}, {one.check}: {len(one.nodes)} nodes"
    if one.agreed is None:
        return f"{where}, and no answer has a majority: {_names(one.odd)}"
    if one.odd:
        return f"{where}; not as most: {_names(one.odd)}; take them out of service, and run `genqual node` there"
    return f"{where}, all {one.agreed[:12]}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
