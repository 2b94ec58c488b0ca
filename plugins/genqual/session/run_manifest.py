"""What `genqual sign` signs of a run: the chain of its records, its attempts, logs and probes. Writes one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from genqual.atomic import write_whole
from genqual.devices.base import Presence
from genqual.records.record import Record
from genqual.signing.journal import noted
from genqual.signing.manifest import Manifest, hashes_of
from genqual.storage.spool import Spool


def keep(
    state: Path, run: str, journal: Path, spool: Spool, probed: Mapping[str, Presence], records: Iterable[Path]
) -> str:
    """Write the manifest of `run` below `state`; why it could not be written, or nothing.

    `records` are taken where the journal names none; `probed` is what each device's probe found.
    """
    notes = noted(journal)
    wrote = notes.wrote or [path.stem for path in records]
    read = (place.read(identifier) for place in spool.places for identifier in wrote if place.has(identifier))
    manifest = Manifest.of(
        {one.id: one for one in read if isinstance(one, Record)}.values(),
        started=notes.begun,
        logs=hashes_of(state / "logs" / run),
        probes={name: {"probe": one.probe, "found": one.found} for name, one in probed.items()},
    )
    target = state / "manifests" / f"{run}.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, manifest.to_bytes())
    except OSError as error:
        return f"{target} cannot be written ({error.strerror}), so this run cannot be signed"
    return ""
