"""Intel Xeon as a device."""

from __future__ import annotations

from genqual.devices.cpuinfo import CpuInfo
from genqual.devices.processor import Processor


class Xeon(Processor):
    """The Xeon cores that this process may use."""

    name = "xeon"
    summary = "Intel Xeon, ranks on CPU cores"

    def foreign(self, info: CpuInfo) -> str | None:
        return None if info.is_xeon else "which is no Xeon: its device is cpu"

    def kind(self, info: CpuInfo) -> str:
        return f"xeon-{info.family}-model-{info.model}"
