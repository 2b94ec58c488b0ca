"""`genqual node`: is this node fit? Checks it for a given time and prints one JSON document."""

from __future__ import annotations

import os
import platform
import tempfile
from pathlib import Path

import click
from pydantic import BaseModel, ConfigDict

from genqual import __version__, toml_file
from genqual.commands.node_outputs import Outputs
from genqual.devices import simulated
from genqual.devices.files import read
from genqual.devices.registry import device as device_called
from genqual.devices.registry import processor
from genqual.errors import BadInput
from genqual.health import levels
from genqual.health import signed as node_document
from genqual.health.checks.base import Node
from genqual.health.checks.cards import cards_of
from genqual.health.checks.counters import PRIVILEGES
from genqual.health.finding import Allowed, NodeVerdict
from genqual.health.run_state import RunState
from genqual.session.record_fields import names

_FILE = click.Path(path_type=Path, dir_okay=False)


class _AllowList(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allow: list[Allowed] = []


@click.command()
@click.option(
    "--level", type=click.Choice(list(levels.SECONDS)), default="1", help="60 s, 2 min or 15 min. [default: 1]"
)
@click.option("--minutes", type=click.FloatRange(min=0.5), help="Any other time, instead of a level.")
@click.option("--device", help="xeon, cuda, hpu and so on: its cores or its cards.  [default: this host's processor]")
@click.option("--simulate", is_flag=True, help="With --device hpu: on cards that are not there, and named simulated.")
@click.option("--cores", help="Check these cores only, such as 0,1. [default: all that this process may use]")
@click.option("--allow", "allow_file", type=click.Path(path_type=Path), help="Known findings, each until a date.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the document here, too.")
@click.option("--page", type=_FILE, help="Write the document as a page to print here (HTML; extra `report`).")
@click.option("--key", "keys", type=_FILE, multiple=True, help="Sign the document: Ed25519 private key, PEM.")
@click.option("--signed", type=_FILE, help="Where the signed document goes.  [default: node.signed.json]")
@click.option("--document", type=_FILE, help="Run nothing: print, sign or tell the exit status of this document.")
@click.option("--state", type=click.Path(path_type=Path), help="Keep each check's findings here while the run lasts.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run that --state holds.")
@click.option("--list", "list_only", is_flag=True, help="List the checks, their time and what they need; run nothing.")
@click.pass_context
def node(
    context: click.Context,
    level: str,
    minutes: float | None,
    device: str | None,
    simulate: bool,
    cores: str | None,
    allow_file: Path | None,
    target: Path | None,
    page: Path | None,
    keys: tuple[Path, ...],
    signed: Path | None,
    document: Path | None,
    state: Path | None,
    resume: bool,
    list_only: bool,
) -> None:
    """Check this node and print one verdict: fit or unfit.

    Products with known answers on all cores or cards, generation against the oracle and again and again, stragglers
    among them, a vote on the same generation, and the hardware's own counters round each check. More time finds rarer
    faults. The document on stdout has a finding for each check and entity, with threshold, evidence and action;
    `genqual schema node` prints its schema.

    Exit status: 0 fit; 1 unfit, or a required check gave no signal; 2 it could not run. Use it in
    Slurm's prolog or epilog, or in an init container. A pass covers only the checks that are listed, for the time that
    they ran.

    \b
      genqual node --level 1 --json node.json
      genqual node --list
      CUDA_VISIBLE_DEVICES=0,1 genqual node --device cuda --level 2       # two of the cards
      genqual node --minutes 30 --state node.state           # after a kill: the same, with --resume
      genqual node --document node.json --key key.pem --page node.html   # sign elsewhere than on the node
      genqual verify node.signed.json --key key.pub
    """
    if list_only:
        _list()
        return
    kept = None
    try:
        if simulate and device != "hpu":
            raise BadInput("--simulate goes with --device hpu: there are no other cards to simulate")
        if simulate:
            simulated.switch_on()
        outputs = Outputs.of(target, page, keys, signed)  # a key that cannot be opened is told before the minutes
        if resume and state is None:
            raise BadInput("--resume: give the file of the interrupted run with --state")
        if document is not None:
            verdict = node_document.read(document)
        else:
            verdict, kept = _run(_level(level, minutes), device, cores, _allowed(allow_file), state, resume=resume)
    except BadInput as error:
        click.echo(f"genqual node: could not run: {error}", err=True)
        context.exit(2)
    text = verdict.model_dump_json(indent=2)
    click.echo(text)
    try:
        told = outputs.write(verdict)
    except BadInput as error:  # the verdict is out, and --state, where there is one, still has what made it
        click.echo(f"genqual node: {verdict.verdict}, and not written: {error}", err=True)
        context.exit(2)
    if kept is not None:
        kept.end()  # only now: until the verdict is out, a kill leaves what it was made of
    for line in told:
        click.echo(f"genqual node: {line}", err=True)
    for reason in verdict.reasons:
        click.echo(f"genqual node: {reason}", err=True)
    click.echo(f"genqual node: {verdict.verdict} after {verdict.seconds:.0f} s. {verdict.scope}", err=True)
    context.exit(verdict.exit_code)


def _list() -> None:
    for one in levels.CHECKS:
        need = "required" if one.required else "optional"
        more = ", more with more time" if one.stretches else ""
        click.echo(f"{one.name:<14} {need}, {one.seconds:.0f} s{more}; privileges: {one.privileges}\n  {one.summary}")
    click.echo(f"{'counters':<14} optional, round each check; privileges: {PRIVILEGES}")


def _level(name: str, minutes: float | None) -> levels.Level:
    if minutes is not None:
        return levels.Level(f"{minutes:g} minutes", 60.0 * minutes)
    return levels.Level(name, levels.SECONDS[name])


def _run(
    level: levels.Level,
    device: str | None,
    cores: str | None,
    allowed: list[Allowed],
    state: Path | None,
    *,
    resume: bool,
) -> tuple[NodeVerdict, RunState | None]:
    chosen = device_called(device) if device else processor()
    presence = chosen.probe()
    if not presence.present:
        raise BadInput(f"device {chosen.name}: absent; {presence.probe} found {presence.found}")
    cards = cards_of(chosen)
    if chosen.torch_device != "cpu" and not cards:
        raise BadInput(f"device {chosen.name}: it tells of no single cards; qualify it by pytest -m {chosen.name}")
    if cards and cores:
        raise BadInput(f"--cores with {chosen.name}: its cards are checked, those that {cards[0].variable} shows")
    usable = tuple(sorted(os.sched_getaffinity(0)))
    wanted = _cores(cores, usable)
    identity = chosen.identity().class_id
    kept = None
    if state is not None:
        shown = ",".join(one.entity for one in cards) or ",".join(map(str, wanted))
        run = {"version": __version__, "level": level.name, "device": chosen.name, "class": identity, "cores": shown}
        kept = RunState(state, {**run, "boot": read(Path("/proc/sys/kernel/random/boot_id")) or ""}, resume=resume)
    with levels.alone(), tempfile.TemporaryDirectory(prefix="genqual-node-") as work:
        verdict = levels.run(
            Node(chosen.name, wanted, Path(work), say=_say, cards=cards),
            level,
            name=names().name(platform.node()),
            hardware_class=identity,
            allowed=allowed,
            state=kept,
        )
    return verdict, kept


def _say(text: str) -> None:
    click.echo(f"genqual node: {text}", err=True)


def _cores(text: str | None, usable: tuple[int, ...]) -> tuple[int, ...]:
    if text is None:
        return usable
    try:
        wanted = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise BadInput(f"--cores: invalid list {text!r} (expected for example 0,1)") from None
    if not set(wanted) <= set(usable):
        raise BadInput(f"--cores {text}: this process may use {', '.join(map(str, usable))}")
    return wanted


def _allowed(path: Path | None) -> list[Allowed]:
    """The entries `[[allow]]` of a TOML file. Raises BadInput that names the file and what is wrong in it."""
    if path is None:
        return []
    return toml_file.read(path, _AllowList, where=f"--allow {path}").allow
