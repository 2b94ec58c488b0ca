"""Folders for weights that are offloaded to disk: checked before they are filled, gone with the ranks. No torch.

A rank may be killed at any moment, so it cannot be the one to clean up: each folder is noted in the rank's log folder,
and whoever ends the group removes what is noted (`sweep`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from genqual.errors import BadInput, OutOfMemory

PREFIX: Final = "genqual-scratch-"
NOTE: Final = "scratch.txt"


def make(where: str | None, need: int, what: str) -> Path:
    """A new folder below `where` (default: the temporary directory) with room for `need` bytes of `what`.

    Raises BadInput when `where` is no directory that can be written, OutOfMemory when it has less room.
    """
    base = Path(where or tempfile.gettempdir()).expanduser()
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        raise BadInput(f"{what} shall go to {base}, which is no directory that this process may write to; make it, or "
                       "name another")  # fmt: skip
    free = shutil.disk_usage(base).free
    if free < need:
        raise OutOfMemory(
            f"{what} take {need / 2**20:,.0f} MiB and {base} has {free / 2**20:,.0f} MiB free; make room, or name a "
            "folder on a larger disk"
        )
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    logs = os.environ.get("GENQUAL_LOGS")
    if logs:
        with (Path(logs) / NOTE).open("a", encoding="utf-8") as note:  # one short line: appended whole by every rank
            note.write(f"{folder}\n")
    return folder


def sweep(logs: Path) -> list[Path]:
    """Remove the folders that ranks, now ended, noted in `logs`; returns those that could not be removed."""
    note = logs / NOTE
    if not note.is_file():
        return []
    folders = [Path(line) for line in note.read_text(encoding="utf-8").splitlines()]
    mine = [folder for folder in folders if folder.name.startswith(PREFIX)]  # a damaged note may name anything
    for folder in mine:
        shutil.rmtree(folder, ignore_errors=True)
    left = [folder for folder in mine if folder.exists()]
    if not left:
        note.unlink()
    return left
