"""What a sink must do. No implementation and no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self

from genqual.errors import GenqualError
from genqual.records.record import Record


class SinkFailed(GenqualError):
    """A sink could not be written or read now. The records stay in the spool; the message names the place and why."""


class SinkBusy(SinkFailed):
    """It may work in a moment: the server restarts, the network blinks, a limit of requests was met. Worth a retry."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which records to read: every field that is not None must match.

    `run`, `key` and `commit` match by their beginning. `newest`: only the run that each content key was last recorded
    in, among those that match.
    """

    run: str | None = None
    key: str | None = None
    class_id: str | None = None
    device: str | None = None
    engine: str | None = None
    model: str | None = None
    dtype: str | None = None
    kind: str | None = None
    host: str | None = None
    commit: str | None = None
    newest: bool = False

    PREFIXES = ("run", "key", "commit")

    @property
    def conditions(self) -> dict[str, str]:
        """The fields that were asked for."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "newest")
        return {name: value for name, value in given if value is not None}

    def matches(self, record: Record) -> bool:
        """Whether `record` is asked for, `newest` aside; a sink may answer this from an index of its own."""
        columns = columns_of(record)
        return all(
            str(columns[name] or "").startswith(value) if name in self.PREFIXES else columns[name] == value
            for name, value in self.conditions.items()
        )


def newest(records: Iterable[Record]) -> list[Record]:
    """Those of the run that each content key was last recorded in, in their order."""
    found = list(records)
    last: dict[str, Record] = {}
    for record in sorted(found, key=lambda record: (record.created, record.id)):
        last[record.key] = record
    return [record for record in found if record.run == last[record.key].run]


def columns_of(record: Record) -> dict[str, str | int | None]:
    """What an index knows of a record, beside its bytes."""
    return {
        "id": record.id,
        "created": record.created,
        "run": record.run,
        "kind": record.kind,
        "key": record.key,
        "device": record.system.device,
        "class_id": record.system.class_id,
        "engine": record.engine.name,
        "model": record.model.name,
        "dtype": record.precision.dtype,
        "ranks": record.engine.ranks,
        "status": record.outcome.status,
        "provenance": record.provenance.kind,
        "host": record.system.host,
        "commit": record.software.commit,
    }


class Sink(Protocol):
    """A place that keeps records, registered by URL scheme under the entry point group `genqual.sinks`.

    Sending the same record again, from any host, must change nothing. All methods raise SinkFailed, whose message
    holds no password.
    """

    name: str  # without password and with an absolute path: names the place in messages and in the spool's ledger

    @classmethod
    def open(cls, url: str) -> Self:
        """Make ready for `url`. Raises BadInput when it cannot be one of this sink's; touches nothing yet."""
        ...

    def send(self, records: Sequence[Record]) -> int:
        """Keep all of `records` durably, then return how many were new here. May have kept some when it fails."""
        ...

    def read(self, query: Query) -> Iterator[Record]:
        """The verified records that match, oldest first."""
        ...

    def close(self) -> None: ...
