"""What a run noted as it went, one JSON line each: attempts before they began, records when they were spooled.

Every process of a run appends to the same file; what was begun and left no record shows, whoever ended it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Noted:
    """Attempts by subject, and the ids of records in the order they were written."""

    begun: Counter[str] = field(default_factory=Counter)
    wrote: list[str] = field(default_factory=list)


class Journal:
    """One run's notes. A directory that cannot be written ends the notes, never the run: the spool says so already."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def begin(self, subject: str) -> None:
        """Note that an attempt begins; on the medium before it does."""
        self._append({"begun": subject}, sync=True)

    def wrote(self, identifier: str) -> None:
        """Note that a record was spooled."""
        self._append({"wrote": identifier}, sync=False)

    def _append(self, note: dict[str, str], *, sync: bool) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, json.dumps(note).encode() + b"\n")  # one write: lines of two processes do not mix
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self._path = None


def noted(path: Path) -> Noted:
    """Read a journal back; a line that a kill tore is none, and no file is no note."""
    found = Noted()
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            note: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(note, dict) and "begun" in note:
            found.begun[str(note["begun"])] += 1
        elif isinstance(note, dict) and "wrote" in note:
            found.wrote.append(str(note["wrote"]))
    return found
