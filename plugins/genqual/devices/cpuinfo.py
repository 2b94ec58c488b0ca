"""What /proc/cpuinfo says of the processor: brand, model, instruction sets. Reads one file; runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from genqual.devices.files import read, whole

# The sets that decide which kernels oneDNN and torch choose, weakest first.
ISA: Final = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512dq",
    "avx512bw",
    "avx512vl",
    "avx512vbmi",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "asimddp",
    "sve",
    "sve2",
    "i8mm",
    "bf16",
    "sme",
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """One logical CPU that is online; `package` and `core` are the kernel's ids, None where it gives none."""

    number: int
    package: int | None
    core: int | None
    mhz: float | None


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """/proc/cpuinfo, read. Fields are those of the first CPU; None where the architecture has no such line."""

    cpus: tuple[Cpu, ...]
    vendor: str | None
    brand: str | None
    family: int | None
    model: int | None
    stepping: int | None
    microcode: str | None
    flags: frozenset[str]

    @property
    def is_xeon(self) -> bool:
        """Intel's own vendor string and the word Xeon in the brand: the cloud's nameless models keep both."""
        return self.vendor == "GenuineIntel" and "xeon" in (self.brand or "").lower()

    @property
    def isa(self) -> list[str]:
        """The instruction sets of `ISA` that are here, weakest first."""
        return [flag for flag in ISA if flag in self.flags]

    @property
    def tier(self) -> str:
        """The strongest matrix path that a kernel library may take: amx, avx512-bf16, ... One word of the class."""
        if "amx_tile" in self.flags and self.flags & {"amx_bf16", "amx_int8"}:
            return "amx"
        for flag, tier in (
            ("avx512_bf16", "avx512-bf16"),
            ("avx512_vnni", "avx512-vnni"),
            ("avx512f", "avx512"),
            ("avx2", "avx2"),
            ("bf16", "arm-bf16"),  # Arm's names: BFMMLA, SVE, NEON
            ("sve", "sve"),
            ("asimd", "neon"),
        ):
            if flag in self.flags:
                return tier
        return "sse"

    @property
    def has_bf16(self) -> bool:
        """Whether oneDNN multiplies bf16 matrices here: natively, or with AVX-512's integers and shifts."""
        return self.tier in {"amx", "avx512-bf16", "avx512-vnni", "avx512", "arm-bf16"}

    @property
    def sku(self) -> str:
        """The brand without its common words: `platinum-8480plus`, `2700mhz`; empty where it says only Xeon."""
        text = re.sub(r"\((r|tm)\)|\b(intel|xeon|amd|processor|cpu)\b", " ", (self.brand or "").lower())
        # No dot may remain: the class names a file, and with_suffix() would cut it there.
        text = re.sub(r"(\d+\.\d+)ghz", lambda m: f"{round(float(m[1]) * 1000)}mhz", text).replace("+", "plus")
        return slug(text)


def slug(text: str) -> str:
    """Lower case letters, digits and single dashes: safe in a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def read_cpuinfo(root: Path) -> CpuInfo | None:
    """Parse `root`/proc/cpuinfo; None where it is absent or lists no CPU (not Linux)."""
    blocks = [
        {
            key.strip(): value.strip()
            for key, colon, value in (line.partition(":") for line in block.splitlines())
            if colon
        }
        for block in (read(root / "proc/cpuinfo") or "").split("\n\n")
    ]
    # ARM adds a last block without a CPU (Hardware, Revision); s390 names CPUs otherwise and is not ours.
    cpus = [block for block in blocks if whole(block.get("processor")) is not None]
    if not cpus:
        return None
    first = cpus[0]
    return CpuInfo(
        cpus=tuple(_cpu(block) for block in cpus),
        vendor=first.get("vendor_id", first.get("CPU implementer")),
        brand=first.get("model name"),
        family=whole(first.get("cpu family", first.get("CPU architecture"))),
        model=whole(first.get("model")) if "model" in first else whole(first.get("CPU part"), 16),
        stepping=whole(first.get("stepping")),
        microcode=first.get("microcode"),
        flags=frozenset(first.get("flags", first.get("Features", "")).split()),
    )


def _cpu(block: dict[str, str]) -> Cpu:
    mhz = re.fullmatch(r"\d+(\.\d+)?", block.get("cpu MHz", ""))
    return Cpu(
        number=int(block["processor"]),
        package=whole(block.get("physical id")),
        core=whole(block.get("core id")),
        mhz=float(mhz[0]) if mhz else None,
    )
