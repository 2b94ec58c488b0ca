"""Where every record goes first: on disk, whole or not at all, before any sink is asked. Knows no sink's protocol."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from genqual import digest
from genqual.errors import GenqualError
from genqual.records.record import Record
from genqual.storage.record_dir import RecordDirectory, SetAside

_log = logging.getLogger("genqual.results")


class SpoolFull(GenqualError):
    """A record could be written neither to the spool nor to its fallback; it is lost unless the caller tries again."""


class Spool:
    """A directory of records and, for when that cannot be written, a second one; both are read and drained.

    `announce` gets one paragraph, once, when the fallback is first used (default: a warning in the log).
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        fallback: str | Path | None = None,
        announce: Callable[[str], None] = _log.warning,
    ) -> None:
        first = Path(directory).absolute()  # now: a test may change the working directory later
        second = Path(fallback).absolute() if fallback else _in_temporary(first)
        self.places = (RecordDirectory(first), RecordDirectory(second, private=fallback is None))
        self._announce = announce
        self._announced = False

    @property
    def directory(self) -> Path:
        """Where records normally go."""
        return self.places[0].directory

    def write(self, record: Record) -> Path:
        """Store `record` durably and return its path; writing it again changes nothing. Raises SpoolFull."""
        first, second = self.places
        try:
            return first.write(record)
        except OSError as error:
            reason = _reason(error)
        try:
            path = second.write(record)
        except OSError as error:
            raise SpoolFull(
                f"record {record.id[:12]} could not be spooled: {first.directory}: {reason}; the fallback"
                f" {second.directory}: {_reason(error)}. Free some space or give a directory that can be written"
                " (--state-dir, or TMPDIR for the fallback), then run again"
            ) from None
        if not self._announced:
            self._announced = True
            self._announce(
                f"the spool {first.directory} cannot be written ({reason}), so records go to {second.directory}"
                f" instead; nothing is lost: `genqual push --spool {first.directory}` sends them from there"
            )
        return path

    def pending(
        self, sink: str, *, again: bool = False, known: Mapping[str, Record] | None = None
    ) -> Iterator[tuple[RecordDirectory, Record | SetAside]]:
        """What `sink` (a ledger name) does not have yet, or everything when `again`, one at a time, with its place.

        Of the ids in `known` no file is read.
        """
        for place in self.places:
            done = frozenset() if again else place.sent(sink)
            for identifier in place.ids():
                if identifier not in done:
                    yield place, (known or {}).get(identifier) or place.read(identifier)

    def ids(self) -> list[str]:
        """Every id here, once, in order; nothing is read."""
        return sorted({identifier for place in self.places for identifier in place.ids()})


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _in_temporary(directory: Path) -> Path:
    """A fallback of this user and of this spool alone, so that `push` never sends the records of another project."""
    mine = digest.of_bytes(os.fsencode(directory))[:8]
    return Path(tempfile.gettempdir()) / f"genqual-spool-{os.getuid()}-{mine}"
