"""The oracles of one run of the suite: our own over a model's weights, or the peer that made its reference."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection

from threadpoolctl import threadpool_limits

from genqual.conformance.oracle.registry import Oracle, oracle_for
from genqual.conformance.references.make import Reference
from genqual.models import weights
from genqual.models.registry import resolve
from genqual.ranks.peer_oracle import BY, peer_oracle


class Oracles:
    """One oracle at a time, the last one asked for: a float64 copy of the weights is large, and so is a peer."""

    def __init__(self, progress: Callable[[str], None], taken: Callable[[], Collection[str]]) -> None:
        """`taken` says which cores the run's own ranks hold, so that a peer takes others where there are any."""
        self._progress, self._taken = progress, taken
        self._kept: dict[str, Oracle] = {}
        self._peers = contextlib.ExitStack()

    def of(self, model: str, reference: Reference | str) -> Oracle:
        """What can be asked about texts that `reference` does not hold. Raises BadInput where there is nothing."""
        if model not in self._kept:
            self.close()
            spec = resolve(model)
            if isinstance(reference, Reference) and reference.generator.get("by") == BY:
                peer = peer_oracle(spec, progress=self._progress, taken=self._taken())
                self._kept[model] = self._peers.enter_context(peer)
            else:
                self._kept[model] = oracle_for(weights.config(spec), weights.read(spec))
                # The next group imports meanwhile: BLAS that waits for a thread without a core takes six times as long.
                threadpool_limits(max(1, len(os.sched_getaffinity(0)) // 2), user_api="blas")
        return self._kept[model]

    def close(self) -> None:
        """Let go of what is kept; harmless twice."""
        self._kept.clear()
        self._peers.close()
