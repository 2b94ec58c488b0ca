"""Names that point at one machine or one card, as records keep them: hashed unless a person asks otherwise. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from genqual.cases import Json

PREFIX: Final = "hashed:"
SERIALS: Final = frozenset({"uuid", "serial", "serial_number", "board_serial", "mac", "hostname", "host"})

_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Names:
    """How names are kept. The same name gives the same hash in every run, so that nodes can be compared.

    Host names are short and can be guessed: with a `key` of one's own (GENQUAL_HASH_KEY) a hash cannot be tried out.
    `host` is this machine's name, which is also taken out of messages.
    """

    host: str = ""
    key: str = ""
    plain: bool = False

    def name(self, text: str) -> str:
        """`text` as a record keeps it; what is hashed already stays."""
        if self.plain or not text or text.startswith(PREFIX):
            return text
        digest = hmac.new(f"genqual:{self.key}".encode(), text.encode(), hashlib.sha256).hexdigest()
        return f"{PREFIX}{digest[:_DIGITS]}"

    def facts(self, value: Mapping[str, Json]) -> dict[str, Json]:
        """A copy of `value` with every serial number in it, however deep, as `name` keeps it."""
        return {
            key: self.name(item) if key in SERIALS and isinstance(item, str) else self._deep(item)
            for key, item in value.items()
        }

    def _deep(self, value: Json) -> Json:
        if isinstance(value, Mapping):
            return self.facts(value)
        return [self._deep(item) for item in value] if isinstance(value, list) else value

    def text(self, message: str) -> str:
        """A message, such as a launcher's, without this machine's name."""
        if self.plain or len(self.host) < 4:  # a shorter name is a syllable of other words
            return message
        return message.replace(self.host, self.name(self.host))
