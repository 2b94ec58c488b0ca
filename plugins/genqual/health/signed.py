"""A signed document of `genqual node`: a DSSE envelope of its own payload type, in a file of one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from genqual.atomic import write_whole
from genqual.errors import BadInput
from genqual.health.finding import NodeVerdict
from genqual.signing.dsse import Envelope
from genqual.signing.dsse import sign as sign_payload
from genqual.storage.sources import envelope_in

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE: Final = "application/vnd.genqual.node+json"


def write(path: Path, verdict: NodeVerdict, keys: Sequence[Ed25519PrivateKey]) -> Envelope:
    """Sign `verdict` with each key, into `path`. Raises BadInput where that cannot be written."""
    envelope = sign_payload(to_bytes(verdict), keys, payload_type=PAYLOAD_TYPE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, envelope.to_bytes() + b"\n")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    return envelope


def to_bytes(verdict: NodeVerdict) -> bytes:
    """What is signed: the document as `genqual node` prints it."""
    return verdict.model_dump_json(indent=2).encode()


def read(path: Path) -> NodeVerdict:
    """The document in `path`, signed or not; signatures are not looked at. Raises BadInput on anything else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    envelope = envelope_at(path)
    return _document(data if envelope is None else envelope.payload, str(path))


def envelope_at(path: Path) -> Envelope | None:
    """The envelope in `path`, where it is a signed document of a node; None where it is anything else.

    Raises BadInput on a damaged one.
    """
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        given = envelope_in(stream.readline())
    try:
        found = None if given is None else Envelope.from_json(given)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return found if found is not None and found.payload_type == PAYLOAD_TYPE else None


def check(
    envelope: Envelope, trusted: Mapping[str, Ed25519PublicKey], where: str
) -> tuple[NodeVerdict | None, list[str]]:
    """The document, and what is wrong: a key of `trusted` (by name) that did not sign, contradictions in it."""
    problems = [f"signature: not signed by {name}" for name, key in trusted.items() if not envelope.signed_by(key)]
    if not envelope.signatures:
        problems.append("signature: nobody signed it")
    try:
        return _document(envelope.payload, where), problems
    except BadInput as error:
        return None, [*problems, f"document: {error}"]


def _document(data: bytes, where: str) -> NodeVerdict:
    try:
        return NodeVerdict.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise BadInput(
            f"{where}: no document of `genqual node` ({place}: {first['msg']}); `genqual schema node` prints its schema"
        ) from None
