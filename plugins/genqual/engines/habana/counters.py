"""What Habana's bridge counts, and how it runs: graph compilations, CPU fallbacks, lazy mode. No model."""

from __future__ import annotations

import importlib
import os
from typing import Any, Final

from genqual.errors import BadInput

COUNTERS: Final = ("graph_compilation", "cpu_fallback", "memory_defragmentation")


def lazy() -> bool:
    """Whether the bridge runs in lazy mode. Raises BadInput where that is left to a default that changed."""
    mode = os.environ.get("PT_HPU_LAZY_MODE")
    if mode not in {"0", "1"}:
        raise BadInput(f"PT_HPU_LAZY_MODE={mode}: set 1 (lazy) or 0 (eager); its default changed in Synapse 1.21")
    return mode == "1"


def counters() -> dict[str, int]:
    """How often each thing happened in this process since it began. A counter this bridge does not have is left out."""
    metrics: Any = importlib.import_module("habana_frameworks.torch.hpu.metrics")
    found = {}
    for name in COUNTERS:
        metric = metrics.metric_global(name)
        if metric is not None:
            found[name] = int(dict(metric.stats())["TotalNumber"])
    return found


def since(before: dict[str, int]) -> dict[str, int]:
    """What happened since `before` was read."""
    return {name: count - before.get(name, 0) for name, count in counters().items()}
