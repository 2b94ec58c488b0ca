"""What one launch measures, and for whom. Reads one source file of this package; no torch, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from genqual import digest
from genqual.cases import Workload
from genqual.gate.baseline_file import FrozenShape
from genqual.metrics.registry import rules

SECTIONS: Final[Mapping[str, str]] = {name: one.section for name, one in rules().items()}
"""Which part of a launch each gated metric comes from."""

QUICK_LAUNCHES: Final = 8  # of a case in `genqual rebase --quick`
QUICK_S: Final = 600.0  # that it takes at most

SLOW_EVERY: Final = 4  # of so many steps, one is slowed on purpose: the self-test

# Steps that leave a launch's z with a standard deviation near 1 %: docs/gate-theory.md, "How many steps". Several ranks
# wait for each other, so theirs vary more.
_STEPS: Final[Mapping[str, tuple[int, int]]] = {"decode": (310, 480), "throughput": (248, 320), "prefill": (40, 80)}
_SHARE: Final = 0.5  # of the candidate's weights that the reference step has; its step then takes 0.25 to 1 of it
_MOST: Final = 1 << 29  # parameters of the reference step: a gigabyte


def gated_workloads(workloads: Sequence[Workload]) -> dict[str, Workload]:
    """The workload at which the gate judges each metric; at all others it is recorded.

    Latency at the smallest batch, throughput and memory at the largest, both at the longest input: what a user waits
    for, and what a device does at most. Load time does not depend on one.
    """
    small = min(workloads, key=lambda w: (w.batch, -w.input_length))
    large = max(workloads, key=lambda w: (w.batch, w.input_length))
    chosen = {"smallest": small, "largest": large, "first": workloads[0]}
    return {name: chosen[one.workload] for name, one in rules().items()}


def frozen_shape(parameters: int, dtype: str) -> FrozenShape:
    """The reference step beside a rank that holds `parameters` in `dtype`: fixed by them, never by a clock."""
    budget = min(_MOST, round(parameters * _SHARE))
    hidden = 64
    while hidden < 4096 and 4 * _layer(2 * hidden) <= budget:
        hidden *= 2
    layers = max(1, round(budget / _layer(hidden)))
    return FrozenShape(hidden=hidden, layers=layers, dtype="fp32" if dtype == "fp32" else "bf16")


@cache
def frozen_source() -> str:
    """SHA-256, hex, of the reference step's source: another step is another clock."""
    return digest.of_file(Path(__file__).with_name("frozen.py"))


def _layer(hidden: int) -> int:
    return round(11.25 * hidden * hidden)


@dataclass(frozen=True, slots=True)
class LaunchJob:
    """What each launch of a case does: `sections` in the order that ranks run them, each on its workload."""

    workloads: Mapping[str, Workload]  # section -> workload
    shape: FrozenShape
    slowdown: float
    ranks: int

    @classmethod
    def of(
        cls, metrics: Iterable[str], gated: Mapping[str, Workload], shape: FrozenShape, *, slowdown: float, ranks: int
    ) -> LaunchJob:
        """For these metrics, each at the workload where it is gated."""
        wanted = {SECTIONS[name]: gated[name] for name in SECTIONS if name in set(metrics)}
        return cls(wanted, shape, slowdown, ranks)

    @property
    def calls(self) -> dict[str, int]:
        """How often each timed section generates."""
        made = {}
        for section, workload in self.workloads.items():
            if section in _STEPS:
                each = 1 if section == "prefill" else max(1, workload.new_tokens - 1)
                made[section] = math.ceil(_STEPS[section][self.ranks > 1] / each)
        return made
