"""What `compare` and `report` are told to read: any source of records, and the published tables by their name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from genqual.analysis.published.tables import NAME, published
from genqual.errors import BadInput
from genqual.records.record import Record
from genqual.storage.sources import load

_SELECTORS: Final[dict[str, Callable[[Record], str]]] = {
    "class": lambda record: record.system.class_id,
    "device": lambda record: record.system.device,
    "engine": lambda record: record.engine.name,
    "model": lambda record: record.model.name,
    "dtype": lambda record: record.precision.dtype,
    "run": lambda record: record.run,
}


def read(spec: str, *, every: bool = False) -> list[Record]:
    """The records that `spec` names: of each configuration those of its newest run, or `every` one.

    `published` is the tables of the posts, with the selectors that they have. Raises BadInput, never empty.
    """
    place, _, selector = spec.partition("#")
    if place == NAME:
        return _matching(published(), selector, spec)
    return load(spec, newest=not every)


def _matching(records: Sequence[Record], selector: str, spec: str) -> list[Record]:
    wanted = [(name, value) for name, _, value in (one.partition("=") for one in selector.split("&")) if name]
    for name, _ in wanted:
        if name not in _SELECTORS:
            raise BadInput(f"{spec}: no selector {name!r} of the published tables; there are {', '.join(_SELECTORS)}")
    found = [record for record in records if all(_SELECTORS[name](record) == value for name, value in wanted)]
    if not found:
        held = ", ".join(sorted({record.system.class_id for record in records}))
        raise BadInput(f"{spec}: no published record is that; there are the classes {held}")
    return found
