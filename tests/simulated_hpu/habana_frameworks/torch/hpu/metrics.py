"""`metric_global`: what the bridge counts since the process began, or since `reset`."""

from __future__ import annotations

import json
import os
from typing import Any

from habana_frameworks.torch.card import CARD


class Metric:
    """One counter, with the fields that the vendor's has, in their order."""

    def __init__(self, name: str) -> None:
        self._name = name

    def stats(self) -> list[tuple[str, Any]]:
        if self._name == "graph_compilation":
            return [("TotalNumber", CARD.compilations), ("TotalTime", CARD.compilations), ("AvgTime", 1)]
        if self._name == "cpu_fallback":
            return [("TotalNumber", CARD.fallbacks.total()), ("FallbackOps", dict(CARD.fallbacks))]
        return [("TotalNumber", 0), ("TotalSuccessful", 0), ("AvgTime", 0), ("MaxTime", 0)]

    def reset(self) -> None:
        if self._name == "graph_compilation":
            CARD.compilations = 0
        if self._name == "cpu_fallback":
            CARD.fallbacks.clear()


def metric_global(name: str) -> Metric | None:
    """The counter called `name`; None for a name that the bridge does not know."""
    return Metric(name) if name in {"graph_compilation", "cpu_fallback", "memory_defragmentation"} else None


def metrics_dump(filename: str = "", file_format: str = "") -> None:
    """Write all counters to $PT_HPU_METRICS_FILE, as the bridge does when a process ends."""
    target = filename or os.environ.get("PT_HPU_METRICS_FILE", "")
    if target:
        with open(target, "w", encoding="utf-8") as file:  # noqa: PTH123  the vendor's own name is a string
            json.dump([{"metric_name": n, "stats": dict(Metric(n).stats())} for n in ("graph_compilation",)], file)
