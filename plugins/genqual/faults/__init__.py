"""Faults to inject into an engine: the negative controls of the suite. No torch here; what entries name runs in ranks.

A fault is a function `(engine, rank, **params) -> undo`. It changes the loaded model of that rank through hooks,
instance attributes or its weights, never an installed package, and `undo()` puts back what was there.
"""

from __future__ import annotations

from typing import Final

from genqual.errors import BadInput
from genqual.faults import catalogue, catalogue_engines
from genqual.faults.fault import HERE, HF_ENGINES, IN_PLACE, SHARDED, Fault, Kind

__all__ = ["CATALOGUE", "HERE", "HF_ENGINES", "IN_PLACE", "SHARDED", "Fault", "Kind", "fault"]

CATALOGUE: Final[dict[str, Fault]] = {one.name: one for one in (*catalogue.FAULTS, *catalogue_engines.FAULTS)}
"""Every fault by its name; those of one engine are in `listed_engines`."""


def fault(name: str) -> Fault:
    """The fault called `name`. Raises BadInput that lists the names."""
    if name not in CATALOGUE:
        raise BadInput(f"fault {name!r}: the catalogue has {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
