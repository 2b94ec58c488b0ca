"""A sink of another package: records kept in the memory of one file, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from genqual.records.record import Record
from genqual.storage.sinks.base import Query


class ToySink:
    """toy:///PATH: appends what it does not have yet."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = f"toy://{path}", path

    @classmethod
    def open(cls, url: str) -> Self:
        return cls(Path(url.removeprefix("toy://")))

    def send(self, records: Sequence[Record]) -> int:
        have = {record.id for record in self.read(Query())}
        new = [record for record in records if record.id not in have]
        with self._path.open("ab") as stream:
            for record in new:
                stream.write(record.to_bytes() + b"\n")
        return len(new)

    def read(self, query: Query) -> Iterator[Record]:
        lines = self._path.read_bytes().splitlines() if self._path.is_file() else []
        found = (Record.from_bytes(line) for line in lines)
        return (record for record in found if query.matches(record))

    def close(self) -> None:
        """Nothing is open between calls."""
