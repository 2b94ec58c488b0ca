"""The manifest of one run: its records in a chain, its attempts, the suite that made them. Pure: no key, no clock.

Link k is SHA-256(link k-1 + id k), both as 64 hexadecimal digits, starting from the SHA-256 of the run's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError

from genqual import digest
from genqual.digest import canonical
from genqual.errors import BadInput
from genqual.records.base import Count, Facts, Name, RecordPart, Sha256, Tally
from genqual.records.canonical import parse
from genqual.records.record import Record

MANIFEST: Final = "genqual-manifest/1.0"

Claim = Literal["measured", "simulated"]


class ManifestEntry(RecordPart):
    """One record: what names it, and the link that ends at it."""

    id: Sha256
    key: Sha256
    attempt: Count
    kind: Name
    status: Name
    provenance: Name
    link: Sha256


class Manifest(RecordPart):
    """All of one run. `claim` is what a signature over it says of the numbers.

    `started` counts the attempts by subject (case and workload), as the journal noted them before each began; `logs`
    are SHA-256 by file name; `probes` is what each device's probe found.
    """

    manifest_: Annotated[str, Field(alias="manifest", pattern=r"^genqual-manifest/1\.\d+$")] = MANIFEST
    run: Name
    claim: Claim
    genqual: Name
    source_sha256: Sha256 | None = None
    commit: Name | None = None
    records: tuple[ManifestEntry, ...]
    started: dict[str, Tally] = Field(default_factory=dict)
    logs: dict[str, Sha256] = Field(default_factory=dict)
    probes: Facts = Field(default_factory=dict)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        *,
        started: Mapping[str, int] | None = None,
        logs: Mapping[str, str] | None = None,
        probes: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Self:
        """The manifest of one run's records, in the order they were made. Raises BadInput on none, or on two runs."""
        found = sorted(records, key=lambda record: (record.created, record.id))
        runs = sorted({record.run for record in found})
        if len(runs) != 1:
            what = f"the records of runs {', '.join(runs)}" if runs else "no record"
            raise BadInput(f"{what}: a manifest is of one run; choose it with #run=NAME")
        links = chain(runs[0], [record.id for record in found])
        software = found[-1].software
        return cls(
            run=runs[0],
            claim=claim_of(found),
            genqual=software.genqual,
            source_sha256=software.source_sha256,
            commit=software.commit,
            records=tuple(_entry(record, link) for record, link in zip(found, links, strict=True)),
            started=dict(started or {}),
            logs=dict(logs or {}),
            probes={name: dict(probe) for name, probe in (probes or {}).items()},
        )

    def to_bytes(self) -> bytes:
        """The canonical bytes: what is signed."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises BadInput on other bytes."""
        try:
            return cls.model_validate(parse(data))
        except (ValueError, ValidationError) as error:
            raise BadInput(f"not a {MANIFEST}: {' '.join(str(error).split())[:300]}") from None


def chain(run: str, ids: Sequence[str]) -> list[str]:
    """The link that ends at each id; a changed, missing, added or moved id changes every later link."""
    link, links = digest.of_text(run), []
    for identifier in ids:
        link = digest.of_text(f"{link}{identifier}")
        links.append(link)
    return links


def claim_of(records: Iterable[Record]) -> Claim:
    """What may be claimed of them: one simulated record makes the whole run simulated."""
    return "simulated" if any(record.provenance.kind == "simulated" for record in records) else "measured"


def subject_of(record: Record) -> str | None:
    """What the journal called the attempt that made `record`; None for what no attempt was noted of."""
    return record.labels.get("subject")


def hashes_of(directory: Path) -> dict[str, str]:
    """SHA-256 of each file below `directory`, by its name there."""
    if not directory.is_dir():
        return {}
    return {
        path.relative_to(directory).as_posix(): digest.of_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def _entry(record: Record, link: str) -> ManifestEntry:
    return ManifestEntry(
        id=record.id,
        key=record.key,
        attempt=record.attempt,
        kind=record.kind,
        status=record.outcome.status,
        provenance=record.provenance.kind,
        link=link,
    )
