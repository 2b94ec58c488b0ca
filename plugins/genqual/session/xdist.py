"""Distribute tests over xdist workers by case, so that a rank group is started once. Imported only when xdist runs.

`--dist loadgroup` would do, but with pytest 9.2 and xdist 3.8 it silently stops grouping: xdist renames nodes through
an attribute that pytest's nodes no longer have. A scope read from the node id needs no renaming.
"""

from __future__ import annotations

from xdist.scheduler.loadscope import LoadScopeScheduling

from genqual.cases import case_id_in


def scope_of(nodeid: str) -> str:
    """The case in a node id; a test without one is a scope of its own."""
    return case_id_in(nodeid) or nodeid


class CaseScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's scope scheduling, with the case as the scope."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
