"""Faults to inject into an engine: the negative controls of the suite. No torch here; what entries name runs in ranks.

A fault is a function `(engine, rank, **params) -> undo`. It changes the loaded model of that rank through hooks,
instance attributes or its weights, never an installed package, and `undo()` puts back what was there.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from genqual.errors import BadInput
from genqual.faults import catalogue, catalogue_architectures, catalogue_engines, ignored_fields
from genqual.faults.fault import HERE, HF_ENGINES, IN_PLACE, SHARDED, Fault, Kind

__all__ = ["CATALOGUE", "HERE", "HF_ENGINES", "IN_PLACE", "SHARDED", "Fault", "Kind", "fault"]

GROUP: Final = "genqual.faults"
"""Entry point group: each names a `Fault` of another package, mostly beside a property that finds it."""


@cache
def _catalogue() -> dict[str, Fault]:
    ours = (*catalogue.FAULTS, *catalogue_engines.FAULTS, *catalogue_architectures.FAULTS, *ignored_fields.faults())
    found = {one.name: one for one in ours}
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        made = point.load()
        if not isinstance(made, Fault) or made.name in found:
            raise BadInput(
                f"fault {point.name} ({point.value}): a Fault with a name of its own is wanted; uninstall it"
            )
        found[made.name] = made
    return found


if TYPE_CHECKING:
    CATALOGUE: Final[dict[str, Fault]] = {}
    """Every fault by its name; those of one engine are in `catalogue_engines`."""


def __getattr__(name: str) -> Any:
    """`CATALOGUE`, made when it is asked for: another package's fault may stand in a module that imports this one."""
    if name != "CATALOGUE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _catalogue()


def fault(name: str) -> Fault:
    """The fault called `name`. Raises BadInput that lists the names."""
    if name not in _catalogue():
        raise BadInput(f"fault {name!r}: the catalogue has {', '.join(_catalogue())}")
    return _catalogue()[name]
