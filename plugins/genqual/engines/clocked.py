"""Import torch and transformers first and on the clock. Engines import this module before any that needs either."""

from __future__ import annotations

import importlib
import time
from typing import Final

from genqual.engines.importing import leave_out_torchao, uncollected


def seconds_to_import(*names: str) -> float:
    """Wall seconds that importing `names` takes, in this order; about nothing when they are here already."""
    start = time.perf_counter()
    with uncollected():
        for name in names:
            importlib.import_module(name)
            if name == "transformers":
                leave_out_torchao()
    return time.perf_counter() - start


IMPORT_S: Final = seconds_to_import("torch", "transformers", "transformers.modeling_utils")


class Phases(dict[str, float]):
    """Seconds by phase of a load; a phase that ends twice is summed."""

    def __init__(self) -> None:
        super().__init__()
        self._since = time.perf_counter()

    def end(self, phase: str) -> None:
        """What ran since the last `end` (or the start) was `phase`."""
        now = time.perf_counter()
        self[phase] = self.get(phase, 0.0) + now - self._since
        self._since = now
