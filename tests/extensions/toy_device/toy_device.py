"""A device of another package: this host's processor under another name, as a new kind of card would be."""

from __future__ import annotations

from genqual.devices.cpuinfo import CpuInfo
from genqual.devices.processor import Processor


class Toy(Processor):
    """Every processor is one."""

    name = "toy"
    summary = "a device that another package registers"

    def foreign(self, info: CpuInfo) -> str | None:
        return None

    def kind(self, info: CpuInfo) -> str:
        return "toy"
