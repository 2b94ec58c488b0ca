"""Records as objects in a directory or a bucket, through fsspec: `<run>/<SHA-256 of the bytes>.jsonl`, one a sending.

Names are content: the same records from two hosts are one object, and nothing is ever overwritten with other bytes.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from genqual import digest
from genqual.atomic import write_once
from genqual.errors import BadInput
from genqual.records.record import CorruptRecord, FutureRecord, Record
from genqual.records.redaction import redact, scheme, scrub
from genqual.storage.sinks.base import Query, SinkBusy, SinkFailed, newest
from genqual.storage.sinks.retrying import need, patiently

PACKAGES: Final = {"file": None, "s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""What fsspec needs beside itself, by scheme."""

# A server that accepts and then says nothing must not hold a run that has ended; we do the trying again.
_LIMITS: Final[dict[str, dict[str, Any]]] = {
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}}
}
_NAME: Final = re.compile(r"([0-9a-f]{64})\.jsonl")
_FINAL: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class ObjectSink:
    """A directory or a bucket. `whole`: a push hands over a session's records together, so that they are one object."""

    whole: Final = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._scheme = scheme(url)
        self.name = redact(url).rstrip("/")
        self._base = url.partition("://")[2].rstrip("/")
        if self._scheme == "file":
            self._base = str(Path(self._base).expanduser().absolute())
            self.name = f"file://{self._base}"
        self._fs: Any = None

    @classmethod
    def open(cls, url: str) -> Self:
        """Read `url`, touching nothing. Raises BadInput without a place, with credentials, or without its package."""
        base = url.partition("://")[2].rstrip("/")
        if not base or any(mark in base for mark in "?#"):
            raise BadInput(
                f"{redact(url)}: give a directory or a bucket, such as file:///data/genqual or s3://bucket/dir"
            )
        if scheme(url) not in ("file", "hf") and "@" in base:
            raise BadInput(
                f"{redact(url)}: credentials come from the environment (AWS_ACCESS_KEY_ID ...), not from a URL"
            )
        made = cls(url)
        if made._scheme != "file":
            for module in ("fsspec", "tenacity", PACKAGES.get(made._scheme)):
                if module:
                    need(module, redact(url), package=module if module == "gcsfs" else "")
        return made

    def send(self, records: Sequence[Record]) -> int:
        """Write one object for each run among `records`; how many records were in objects that are new here."""
        runs: dict[str, dict[str, Record]] = defaultdict(dict)
        for record in records:
            runs[record.run][record.id] = record
        new = 0
        for run, found in sorted(runs.items()):
            lines = [found[identifier].to_bytes() for identifier in sorted(found)]
            data = b"\n".join(lines) + b"\n"
            path = f"{_quoted(run)}/{digest.of_bytes(data)}.jsonl"
            if self._scheme == "file":
                added = self._write_file(path, data)
            else:
                added = patiently(partial(self._put, path, data))
            new += len(found) if added else 0
        return new

    def read(self, query: Query) -> Iterator[Record]:
        """Verified records, each once, oldest first. An object that was altered raises SinkFailed."""
        found: dict[str, Record] = {}
        for path in self._objects():
            data = self._bytes(path)
            name = _NAME.fullmatch(path.rpartition("/")[2])
            if name is None or digest.of_bytes(data) != name[1]:
                raise SinkFailed(f"{self.name}: object {path} is not what its name says: it was changed after writing")
            for line in data.splitlines():
                try:
                    record = Record.from_bytes(line)
                except (CorruptRecord, FutureRecord) as error:
                    raise SinkFailed(f"{self.name}: object {path}: {error}") from None
                if query.matches(record):
                    found[record.id] = record
        ordered = sorted(found.values(), key=lambda record: (record.created, record.id))
        yield from newest(ordered) if query.newest else ordered

    def close(self) -> None:
        """Let go of the client. May be called twice."""
        self._fs = None

    def _write_file(self, path: str, data: bytes) -> bool:
        with self._failing("written"):
            return write_once(Path(self._base) / path, data)

    def _put(self, path: str, data: bytes) -> bool:
        """Upload unless it is there. The upload itself is atomic: a reader sees the whole object or none."""
        with self._failing("written"):
            whole = f"{self._base}/{path}"
            fs = self._filesystem()
            fs.invalidate_cache()
            if fs.exists(whole) and fs.size(whole) == len(data):
                return False
            fs.pipe_file(whole, data)
            return True

    def _objects(self) -> list[str]:
        if self._scheme == "file":
            return sorted(str(path) for path in Path(self._base).glob("*/*.jsonl"))
        with self._failing("read"):
            fs = self._filesystem()
            fs.invalidate_cache()
            return sorted(str(path) for path in fs.glob(f"{self._base}/*/*.jsonl"))

    def _bytes(self, path: str) -> bytes:
        with self._failing("read"):
            if self._scheme == "file":
                return Path(path).read_bytes()
            return bytes(self._filesystem().cat_file(path))

    def _filesystem(self) -> Any:
        if self._fs is None:
            import fsspec

            self._fs = fsspec.filesystem(self._scheme, **_LIMITS.get(self._scheme, {}))
        return self._fs

    @contextlib.contextmanager
    def _failing(self, verb: str) -> Iterator[None]:
        """Turn what a client raises into one paragraph without a secret; what may pass is worth a retry."""
        try:
            yield
        except (SinkFailed, BadInput):
            raise
        except Exception as error:  # noqa: BLE001 - each fsspec client raises errors of its own libraries
            reason = " ".join(scrub(str(error), self._url).split()) or type(error).__name__
            kind = SinkFailed if self._scheme == "file" or isinstance(error, _FINAL) else SinkBusy
            raise kind(f"{self.name} cannot be {verb}: {reason}. The records stay in the spool") from None


def _quoted(run: str) -> str:
    """A run's name as one part of a path."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", run)
    return kept if kept.strip(".") else "_"
