"""`genqual models explain MODEL`: by what a checkpoint would be judged, what cannot run, what it takes. No torch."""

from __future__ import annotations

import json

import click

from genqual.commands.explain_text import lines
from genqual.commands.explanation import explanation
from genqual.devices.registry import devices, processor
from genqual.errors import BadInput


@click.command()
@click.argument("model")
@click.option("--device", help="Of which engines are told. [default: this host's processor]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document in place of text.")
def explain(model: str, device: str | None, as_json: bool) -> None:
    """Say by what MODEL would be judged, what is unsupported and why, and what a reference and a run would take.

    MODEL is what `--model` takes. Files are looked at, no weight is read and no engine is started; times and memory are
    estimates. Exits with 1 where the model cannot be judged as it is; the last line is the next step.

    \b
      genqual models explain ./my-checkpoint
      genqual models explain ./my-checkpoint --json
    """
    name = device or processor().name
    if name not in devices():
        raise BadInput(f"--device {name}: known are {', '.join(devices())}")
    found = explanation(model, name)
    click.echo(json.dumps(found, indent=1) if as_json else "\n".join(lines(found)))
    if found["problems"]:
        raise SystemExit(1)
