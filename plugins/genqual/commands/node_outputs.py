"""What `genqual node` writes beside stdout: its document, a page to print, and the document with signatures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from genqual.atomic import write_asked
from genqual.errors import BadInput
from genqual.health import signed as node_document
from genqual.health.finding import NodeVerdict
from genqual.health.page import page as page_of
from genqual.signing.dsse import keyid, private_key
from genqual.storage.sinks.retrying import need

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNED: Final = Path("node.signed.json")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What was asked for, its keys opened."""

    document: Path | None
    page: Path | None
    keys: tuple[Ed25519PrivateKey, ...]
    signed: Path

    @classmethod
    def of(cls, document: Path | None, page: Path | None, keys: tuple[Path, ...], signed: Path | None) -> Outputs:
        """Raises BadInput on a key that cannot be opened, a package that is missing, and --signed without a key."""
        if signed is not None and not keys:
            raise BadInput(f"--signed {signed}: nothing signs it; give the private key with --key")
        if page is not None:
            need("jinja2", "--page", extra="report")
        return cls(document, page, tuple(private_key(path) for path in keys), signed or SIGNED)

    def write(self, verdict: NodeVerdict) -> list[str]:
        """Write what was asked for; a line for each file. Raises BadInput where one cannot be written."""
        told, ids = [], [keyid(key.public_key()) for key in self.keys]
        if self.document is not None:
            _put("--json", self.document, node_document.to_bytes(verdict) + b"\n")
        if self.keys:
            node_document.write(self.signed, verdict, self.keys)
            told.append(f"{self.signed}: signed by {', '.join(one[:16] for one in ids)}")
        if self.page is not None:
            _put("--page", self.page, page_of(verdict, signed_by=ids).encode())
            told.append(f"{self.page}: the page to print")
        return told


def _put(option: str, path: Path, data: bytes) -> None:
    try:
        write_asked(path, data)
    except OSError as error:
        raise BadInput(f"{option} {path}: {error.strerror or error}") from None
