"""DSSE envelopes with Ed25519 signatures. Knows bytes and keys; nothing of records.

Source: Dead Simple Signing Envelope v1, protocol.md and envelope.md; RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from genqual import digest
from genqual.errors import BadInput
from genqual.storage.sinks.retrying import need

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE: Final = "application/vnd.genqual.manifest+json"
PASSPHRASE: Final = "GENQUAL_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and who signed it: `signatures` are (keyid, 64 bytes)."""

    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    payload_type: str = PAYLOAD_TYPE

    def to_bytes(self) -> bytes:
        """One line of JSON, as DSSE defines it."""
        return json.dumps(
            {
                "payloadType": self.payload_type,
                "payload": base64.b64encode(self.payload).decode(),
                "signatures": [
                    {"keyid": keyid, "sig": base64.b64encode(signature).decode()}
                    for keyid, signature in self.signatures
                ],
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Envelope:
        """Raises BadInput on what is no envelope."""
        try:
            signatures = tuple((str(one.get("keyid", "")), _decoded(one["sig"])) for one in data["signatures"])
            return cls(_decoded(data["payload"]), signatures, str(data["payloadType"]))
        except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
            raise BadInput(f"not a DSSE envelope: {type(error).__name__}: {error}") from None

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether any signature is by `key`; a keyid is a hint and proves nothing, so each is tried."""
        from cryptography.exceptions import InvalidSignature

        message = pae(self.payload_type, self.payload)
        for _, signature in self.signatures:
            try:
                key.verify(signature, message)
            except InvalidSignature:
                continue
            return True
        return False


def sign(payload: bytes, keys: Sequence[Ed25519PrivateKey], *, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """An envelope around `payload`, signed by each key. The type is signed, too: none can be taken for another."""
    message = pae(payload_type, payload)
    signatures = tuple((keyid(key.public_key()), key.sign(message)) for key in keys)
    return Envelope(payload, signatures, payload_type)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: lengths first, so that no two pairs give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def keyid(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, 64 hexadecimal digits."""
    return digest.of_bytes(key.public_bytes_raw())


def private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 private key in PEM, as `openssl genpkey -algorithm ed25519` writes it. Raises BadInput."""
    need("cryptography", f"signing with {path}")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret = os.environ.get(PASSPHRASE)
    try:
        key = load_pem_private_key(_read(path), password=secret.encode() if secret else None)
    except TypeError:
        raise BadInput(
            f"{path}: "
            + ("the key is encrypted: set" if not secret else "the key has no passphrase: unset")
            + f" {PASSPHRASE}"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput(
            f"{path}: no private key in PEM that {PASSPHRASE} opens; `openssl genpkey -algorithm ed25519` makes one"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path}: a key of another kind; `openssl genpkey -algorithm ed25519` makes one that is taken")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM, as `openssl pkey -pubout` writes it. Raises BadInput."""
    need("cryptography", f"checking with {path}")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise BadInput(f"{path}: no public key in PEM; `openssl pkey -in key.pem -pubout` writes one") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput(f"{path}: not an Ed25519 key, which is the only kind that genqual signs with")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None


def _decoded(text: str) -> bytes:
    """Base64, standard or URL-safe: DSSE readers take both."""
    return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
