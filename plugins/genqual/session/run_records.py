"""The records of one run: written to the spool, kept in memory, named in the run's manifest, and sent."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from genqual.atomic import write_whole
from genqual.cases import Case, Json, Workload
from genqual.devices.base import Presence
from genqual.records.record import Record
from genqual.session.recorder import Recorder
from genqual.signing.journal import noted
from genqual.signing.manifest import Manifest, hashes_of
from genqual.storage.push import PushReport, push
from genqual.storage.spool import Spool


class RunRecords:
    """What this process recorded, and what the workers of its run did. A record is read from disk once at most."""

    def __init__(
        self, state: Path, run: str, warn: Callable[[str], None], weights_sha256: Callable[[str], str | None]
    ) -> None:
        """`run` is the run's id, and `state` the directory that its processes share."""
        self.pushed: PushReport | None = None
        """What became of the upload, once there was one."""
        self._state = state
        self._run = run
        self._warn = warn
        self._weights_sha256 = weights_sha256
        self._found: dict[str, Record] = {}

    @cached_property
    def spool(self) -> Spool:
        """Where every record goes first."""
        return Spool(self._state / "spool", announce=self._warn)

    @cached_property
    def recorder(self) -> Recorder:
        """Makes the records of this process."""
        return Recorder(self.spool, self._run, shlex.join(["pytest", *sys.argv[1:]]), self.journal)

    @property
    def journal(self) -> Path:
        """Where the attempts of this run are noted before they begin, by every process of it."""
        return self._state / "attempts" / f"{self._run}.jsonl"

    def unsupported(
        self,
        case: Case,
        reason: str,
        workload: Workload | None = None,
        protocol: Mapping[str, Json] | None = None,
    ) -> Path:
        """Record that the case's engine cannot run it, or cannot run a workload that is measured by `protocol`."""
        return self.recorder.unsupported(
            case, reason, weights_sha256=self._weights_sha256(case.model), workload=workload, protocol=protocol
        )

    def find(self, identifiers: Iterable[str]) -> list[Record]:
        """The records with these ids, in this order: those of this process from memory, a worker's from the spool.

        A file that is missing or damaged is left out.
        """
        found = (self._find(identifier) for identifier in dict.fromkeys(identifiers))
        return [record for record in found if record is not None]

    def _find(self, identifier: str) -> Record | None:
        if identifier in self._found:
            return self._found[identifier]
        if (own := self.recorder.written.get(identifier)) is not None:
            # As a reader of the file has it, keys in their order: a table looks the same whichever process recorded.
            self._found[identifier] = Record.from_bytes(own.to_bytes())
        else:
            for place in self.spool.places:
                if place.has(identifier) and isinstance(record := place.read(identifier), Record):
                    self._found[identifier] = record
        return self._found.get(identifier)

    def keep_manifest(self, told: Iterable[str], probed: Mapping[str, Presence]) -> None:
        """Write what `genqual sign` signs: the chain of records, the attempts, logs and probes of this run.

        `told` are the ids of the tests' records, taken where the journal names none; `probed` is what each device's
        probe found. Where the manifest cannot be written, a warning says so.
        """
        notes = noted(self.journal)
        manifest = Manifest.of(
            self.find(notes.wrote or told),
            started=notes.begun,
            logs=hashes_of(self._state / "logs" / self._run),
            probes={name: {"probe": one.probe, "found": one.found} for name, one in probed.items()},
        )
        target = self._state / "manifests" / f"{self._run}.json"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, manifest.to_bytes())
        except OSError as error:
            self._warn(f"{target} cannot be written ({error.strerror}), so this run cannot be signed")

    def push(self, urls: Sequence[str]) -> None:
        """Send what is spooled, other runs' records too; an upload never changes a verdict."""
        if urls:
            self.pushed = push(self.spool, urls, known={**self.recorder.written, **self._found})
