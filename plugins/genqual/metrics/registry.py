"""Every metric that there is: genqual's, and those of other packages by entry point. No torch; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final

from genqual.errors import BadInput
from genqual.metrics.definitions import EVERY, Definition, GateRule

GROUP: Final = "genqual.metrics"


@cache
def definitions() -> Mapping[str, Definition]:
    """Every metric by name: genqual's first, in the order of its tables, then those of the group `genqual.metrics`.

    Raises BadInput where an entry point cannot be loaded, is not a `Definition`, or takes a name that is taken.
    """
    found = dict(EVERY)
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        try:
            made = point.load()
        except Exception as error:
            raise BadInput(f"metric {point.name} ({point.value}) cannot be loaded: {error!r}; uninstall it") from error
        if not isinstance(made, Definition) or made.name in found:
            raise BadInput(f"metric {point.name} ({point.value}): a Definition with a name of its own is wanted")
        found[made.name] = made
    return MappingProxyType(found)


def definition(name: str) -> Definition:
    """The metric called `name`. Raises BadInput that lists the names."""
    if name not in definitions():
        raise BadInput(f"metric {name!r}: unknown (expected one of {', '.join(definitions())})")
    return definitions()[name]


def rules() -> dict[str, GateRule]:
    """How the gate judges each metric that it judges, by name."""
    return {name: one.gate for name, one in definitions().items() if one.gate is not None}


def rule(name: str) -> GateRule:
    """How the gate judges `name`. Raises BadInput where it does not."""
    found = definition(name).gate
    if found is None:
        raise BadInput(f"metric {name!r}: the gate does not judge it (it judges {', '.join(rules())})")
    return found


def is_exact(name: str) -> bool:
    """Whether launches of one program give one number, so that nothing has to be inferred from their spread."""
    return rule(name).exact
