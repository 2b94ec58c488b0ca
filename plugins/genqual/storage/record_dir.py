"""One directory of records: atomic writes, verified reads, a quarantine and a ledger. Knows no sink and no fallback.

`<id>.json` is a record, `quarantine/` holds what is none, an empty `sent/<sink>/<id>` says that this sink has it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from genqual.atomic import write_whole
from genqual.records.record import CorruptRecord, FutureRecord, Record

STALE_S: Final = 3600.0  # a write takes milliseconds: a temporary file this old belongs to a process that was killed

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file that was not read as a record, and why. Quarantined files were moved; the others stay where they were."""

    path: Path
    reason: str
    quarantined: bool


class RecordDirectory:
    """A directory of records. Every process may write to it at once: names are content, and renames are atomic."""

    def __init__(self, directory: Path, *, private: bool = False) -> None:
        self.directory = directory
        self._private = private  # in a directory that all users share: ours alone, or not used

    def exists(self) -> bool:
        """Whether there is anything to read here; a private place that somebody else made is none."""
        return self.directory.is_dir() and self._is_ours()

    def write(self, record: Record) -> Path:
        """Store durably, then return the path; the same record twice is one file. Raises OSError."""
        data = record.to_bytes()
        path = self.directory / f"{record.id}.json"
        self.directory.mkdir(mode=0o700 if self._private else 0o777, parents=True, exist_ok=True)
        if not self._is_ours():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(self.directory))
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return path
        write_whole(path, data)
        return path

    def ids(self) -> list[str]:
        """The ids that files here are named after, in order; nothing is read."""
        if not self.exists():
            return []
        stems = (name[:-5] for name in _names(self.directory) if name.endswith(".json"))
        return sorted(stem for stem in stems if _ID.fullmatch(stem))

    def has(self, identifier: str) -> bool:
        """Whether a file here is named after this id; nothing is read."""
        return self.exists() and (self.directory / f"{identifier}.json").is_file()

    def read(self, identifier: str) -> Record | SetAside:
        """The verified record, or what became of its file: quarantined when damaged, else left where it is."""
        path = self.directory / f"{identifier}.json"
        try:
            record = Record.from_bytes(path.read_bytes())
            if record.id != identifier:
                raise CorruptRecord(f"the file is named after {identifier}, its record is {record.id}")
        except FutureRecord as error:
            return SetAside(path, str(error), quarantined=False)
        except CorruptRecord as error:
            return self._quarantine(path, str(error))
        except OSError as error:
            return SetAside(path, f"it cannot be read: {error.strerror or error}", quarantined=False)
        return record

    def sent(self, sink: str) -> set[str]:
        """The ids that this sink has, by the ledger."""
        ledger = self.directory / "sent" / sink
        return set(_names(ledger)) if ledger.is_dir() else set()

    def mark(self, sink: str, identifiers: Iterable[str]) -> None:
        """Note in the ledger that this sink has these records. Raises OSError; a lost mark costs one more sending."""
        ledger = self.directory / "sent" / sink
        ledger.mkdir(parents=True, exist_ok=True)
        for identifier in identifiers:
            (ledger / identifier).touch()

    def sweep(self) -> None:
        """Remove the temporary files of killed processes. What cannot be removed is left."""
        if not self.exists():
            return
        for path in self.directory.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def _quarantine(self, path: Path, reason: str) -> SetAside:
        target = self.directory / "quarantine" / path.name
        try:
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        except OSError as error:
            return SetAside(path, f"{reason} (and it could not be moved: {error.strerror or error})", quarantined=False)
        return SetAside(target, reason, quarantined=True)

    def _is_ours(self) -> bool:
        if not self._private:
            return True
        status = self.directory.lstat()
        return status.st_uid == os.getuid() and not self.directory.is_symlink()


def _names(directory: Path) -> Iterator[str]:
    with os.scandir(directory) as entries:
        yield from (entry.name for entry in entries)
