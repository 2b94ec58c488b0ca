"""Any processor that is no Xeon as a device: AMD EPYC, Arm Neoverse, a desktop's Core or Ryzen."""

from __future__ import annotations

from typing import Final

from genqual.devices.cpuinfo import CpuInfo, slug
from genqual.devices.processor import Processor

# CPUID's vendor strings, and the implementer codes that Arm's processors show in their place.
_VENDORS: Final = {
    "AuthenticAMD": "amd",
    "GenuineIntel": "intel",
    "HygonGenuine": "hygon",
    "0x41": "arm",
    "0xc0": "ampere",
    "0x48": "hisilicon",
    "0x4e": "nvidia",
    "0x51": "qualcomm",
    "0x61": "apple",
}


class OtherCpu(Processor):
    """The cores of a processor that no other device is for: exactly one of `xeon` and `cpu` is present on a host."""

    name = "cpu"
    summary = "any other processor (AMD EPYC, Arm), ranks on CPU cores"

    def foreign(self, info: CpuInfo) -> str | None:
        return "whose device is xeon" if info.is_xeon else None

    def kind(self, info: CpuInfo) -> str:
        vendor = _VENDORS.get(info.vendor or "", slug(info.vendor or "unknown"))
        return f"cpu-{vendor}-{info.family}-model-{info.model}"
