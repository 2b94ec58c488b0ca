"""Import torch and transformers first and on the clock. Engines import this module before any that needs either."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Final

from genqual.engines.hf.fast_import import leave_out_unused, uncollected
from genqual.engines.hf.model_index import kept_index


def seconds_to_import(*names: str) -> float:
    """Wall seconds that importing `names` takes, in this order; about nothing when they are here already."""
    start = time.perf_counter()
    with uncollected(), kept_index():
        for name in names:
            importlib.import_module(name)
            if name == "transformers":
                leave_out_unused()
    return time.perf_counter() - start


IMPORT_S: Final = seconds_to_import("torch", "transformers", "transformers.modeling_utils")


class Phases(dict[str, float]):
    """Seconds by phase of a load; a phase that ends twice is summed.

    `imports_bytes` is what `memory` read when the last "import" ended: what was imported then holds that much.
    """

    def __init__(self, memory: Callable[[], int] = int) -> None:
        super().__init__()
        self.imports_bytes = 0
        self._memory = memory
        self._since = time.perf_counter()

    def end(self, phase: str) -> None:
        """What ran since the last `end` (or the start) was `phase`."""
        if phase == "import":
            self.imports_bytes = self._memory()
        now = time.perf_counter()
        self[phase] = self.get(phase, 0.0) + now - self._since
        self._since = now
