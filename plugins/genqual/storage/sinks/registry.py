"""Sinks by URL scheme, from the entry point group `genqual.sinks`. Imports a sink only when its scheme is asked for."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import cast

from genqual import digest
from genqual.errors import BadInput
from genqual.records.redaction import redact, scheme
from genqual.storage.sinks.base import Sink

GROUP = "genqual.sinks"


def schemes() -> tuple[str, ...]:
    """The schemes that are registered, in order."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def open_sink(url: str) -> Sink:
    """The sink of `url`; nothing is touched before it is used. Raises BadInput that lists the schemes known."""
    wanted = scheme(url)
    points = [point for point in entry_points(group=GROUP) if point.name == wanted]
    if not points:
        known = ", ".join(f"{name}://" for name in schemes())
        hint = "" if wanted else " A database file is given as sqlite:///PATH."
        raise BadInput(f"upload to {redact(url)!r}: no sink for that; installed are {known}.{hint}")
    try:
        kind = cast("type[Sink]", points[0].load())
    except ImportError as error:
        raise BadInput(f"upload to {redact(url)!r}: its sink {points[0].value} needs {error}; install that") from None
    return kind.open(url)


def ledger_name(sink: Sink) -> str:
    """A directory name for the spool's ledger: readable, one for each place, and the same after a password changed."""
    words = re.sub(r"[^a-z0-9]+", "-", sink.name.lower()).strip("-")
    return f"{words[:40].strip('-')}-{digest.of_text(sink.name)[:12]}"
