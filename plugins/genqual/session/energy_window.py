"""Energy round the timed runs of one workload, read in this process while the ranks compute in theirs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from genqual.devices.energy import Reading, Source, source_of
from genqual.devices.sampling import sampled
from genqual.devices.tool import ToolFailed
from genqual.metrics.energy import Used, every_s, used
from genqual.ranks.group_spec import GroupPlan


class EnergyWindow:
    """A context over the timed runs; `used` is what it took, once it has ended.

    What cannot be read is a reason in `used`, and never an error of the runs.
    """

    def __init__(self, source: Source | str) -> None:
        self.used = Used(None, "unavailable: the window has not ended")
        self._source = source
        self._stack = ExitStack()
        self._samples: list[tuple[float, Reading]] = []

    def __enter__(self) -> Self:
        if isinstance(self._source, str):
            self.used = Used(None, f"unavailable: {self._source}")
            return self
        try:
            read = self._stack.enter_context(self._source())
            self._samples = self._stack.enter_context(sampled(read, every_s))
        except ToolFailed as error:
            self._stack.close()
            self.used = Used(None, f"unavailable: {error}")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stack.close()
        except ToolFailed as error:
            self.used = Used(None, f"unavailable: lost within the window: {error}")
            return
        if self._samples:
            self.used = used(self._samples)


def energy_source(plan: GroupPlan) -> Source | str:
    """What measures the ranks of `plan`, or why nothing does."""
    if plan.tier == "tokens":
        return "the engine is another process, whose hardware is not known here"
    if plan.hosts:
        return "ranks on other hosts: their counters are not read"
    return source_of(plan.torch_device, plan.placement.lease)
