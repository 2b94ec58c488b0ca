"""`genqual hpu-metrics`: judge what Habana's bridge wrote to PT_HPU_METRICS_FILE. Reads files; starts nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from genqual.devices.hpu_metrics import TRIGGERS, counted, read
from genqual.errors import BadInput


@click.command("hpu-metrics", epilog=f"The process has to run with PT_HPU_METRICS_FILE=FILE.json and {TRIGGERS}.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--after", help="Only what happened later, as 2026-11-22T05:00:00; the host's time unless a zone is given."
)
def hpu_metrics(files: tuple[Path, ...], after: str | None) -> None:
    """Count compilations, CPU fallbacks and defragmentations in FILES, one a rank.

    With --after, the end of the warm-up, any of them fails (exit 1): a timed window holds the model's work only.
    Without it the whole process is counted, warm-up included, and only fallbacks fail.
    """
    try:
        moment = None if after is None else datetime.fromisoformat(after).astimezone()
    except ValueError:
        raise BadInput(f"--after {after}: give a moment such as 2026-11-22T05:00:00") from None
    failed = []
    for file in files:
        found = counted(read(file), moment)
        click.echo(f"{file.name}: {', '.join(f'{count} x {name}' for name, count in found.items())}")
        bad = {name for name, count in found.items() if count and (moment is not None or name == "cpu_fallback")}
        failed += [f"{file.name}: {found[name]} x {name}" for name in found if name in bad]
    if failed:
        where = "in the window" if moment is not None else "in the process"
        raise click.ClickException(f"{'; '.join(failed)} {where}, where none belongs")
