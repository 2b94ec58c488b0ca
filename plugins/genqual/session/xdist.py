"""xdist: tests are distributed by case, so that a rank group is started once, and workers' warnings reach the end.

Imported only when xdist runs.

`--dist loadgroup` would do, but with pytest 9.2 and xdist 3.8 it silently stops grouping: xdist renames nodes through
an attribute that pytest's nodes no longer have. A scope read from the node id needs no renaming.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from genqual.cases import case_id_in
from genqual.session.context import Run

_TOLD: Final = "genqual"


def scope_of(nodeid: str) -> str:
    """The case in a node id; a test without one is a scope of its own."""
    return case_id_in(nodeid) or nodeid


def tell(config: pytest.Config, run: Run) -> None:
    """Send the controller what a worker's run has to say at its end: the controller runs no test and warns of none."""
    run.waivers.close(whole=(), selected=())  # what has expired; a worker never sees a whole run
    output: dict[str, Any] = getattr(config, "workeroutput")  # noqa: B009 - xdist's, unknown to pytest's types
    output[_TOLD] = {"warnings": list(run.warnings), "stale": list(run.waivers.stale)}


def hear(node: Any, run: Run) -> None:
    """Take what a worker sent, each once; one that crashed sent nothing, and xdist says so itself."""
    told = getattr(node, "workeroutput", {}).get(_TOLD, {})
    for text in told.get("warnings", ()):
        if text not in run.warnings:
            run.warn(text)
    run.waivers.add_stale(told.get("stale", ()))


class CaseScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's scope scheduling, with the case as the scope."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
