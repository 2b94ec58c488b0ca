"""What signed sessions say of the runs on a page. Reads files; needs cryptography, as `genqual verify` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from genqual.errors import BadInput
from genqual.records.record import Record
from genqual.signing import sign_run
from genqual.signing.dsse import Envelope, public_key
from genqual.signing.manifest import Manifest
from genqual.signing.verify import verify


def signatures(sessions: Iterable[Path], keys: Sequence[Path], records: Sequence[Record]) -> dict[str, str]:
    """By run: who signed it, or why that signature stands for nothing.

    Without a public key a signature is only reported, not believed. A run counts as signed when each of its `records`
    here is among those that were signed. Raises BadInput on a file that is no signed session.
    """
    trusted = {path.name: public_key(path) for path in keys}
    found: dict[str, str] = {}
    for path in sessions:
        one = sign_run.read(str(path))
        if one.envelope is None:
            raise BadInput(f"{path}: it is not signed: its first line is no envelope; `genqual sign` writes one")
        run = Manifest.from_bytes(one.envelope.payload).run
        here = {record.id for record in records if record.run == run}
        found[run] = _said(one, one.envelope, trusted, here)
    return found


def _said(one: sign_run.Session, envelope: Envelope, trusted: Mapping[str, Ed25519PublicKey], here: set[str]) -> str:
    wrong = [
        finding
        for finding in verify(one.records, envelope, trusted, one.damaged)
        if finding.grade == "error" and (trusted or finding.check != "signature")
    ]
    ids = ", ".join(keyid[:16] for keyid, _ in envelope.signatures)
    strange = here - {record.id for record in one.records}
    if wrong:
        return f"signature does not hold: {wrong[0]}"
    if strange:
        return f"signed by {ids}, but {len(strange)} records here are not among those signed"
    return f"signed by {ids}, verified" if trusted else f"signed by {ids}, key not checked"
