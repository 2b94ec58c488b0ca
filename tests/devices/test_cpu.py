"""Processors that are no Xeon: exactly one of the devices `xeon` and `cpu` is on a host, and classes do not meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genqual.cases import PROCESSORS
from genqual.devices.base import Device
from genqual.devices.cpu import OtherCpu
from genqual.devices.registry import device, processor
from genqual.devices.xeon import Xeon
from genqual.errors import BadInput

from .trees import Host, write

EPYC = Host(
    vendor="AuthenticAMD", brand="AMD EPYC 7763 64-Core Processor", family=25, model=1, flags="avx avx2", memory_gib=64
)
NEOVERSE = (
    "processor\t: {}\nFeatures\t: fp asimd asimdhp sve i8mm bf16\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0x{:x}\nCPU revision\t: 1"
)


def arm(root: Path, part: int) -> Path:
    EPYC.write(root)
    write(root, "proc/cpuinfo", "\n\n".join(NEOVERSE.format(cpu, part) for cpu in range(2)))
    return root


@pytest.mark.parametrize(
    ("host", "present"),
    [
        (EPYC, "cpu"),
        (Host(brand="Intel(R) Core(TM) i9-14900K"), "cpu"),
        (Host(vendor="AuthenticAMD", brand="AMD Xeonic"), "cpu"),
        (Host(), "xeon"),
        (Host(brand="Intel(R) Xeon(R) Processor"), "xeon"),
    ],
)
def test_exactly_one_device_is_for_a_processor(root: Path, host: Host, present: str) -> None:
    host.write(root)
    devices: list[Device] = [Xeon(root), OtherCpu(root)]
    assert [one.name for one in devices if one.probe().present] == [present]
    assert {one.name for one in devices} == PROCESSORS


def test_a_xeon_is_told_which_device_it_is(root: Path) -> None:
    other = OtherCpu(Host().write(root))
    assert other.probe().found == "Intel(R) Xeon(R) Platinum 8480+ (vendor GenuineIntel), whose device is xeon"
    with pytest.raises(BadInput, match="this host has 0 cpu cores"):
        other.identity()


@pytest.mark.parametrize(
    ("flags", "native"),
    [("avx avx2", "fp32"), ("sse4_2 avx", "fp32"), ("avx2 avx512f", "bf16"), ("avx2 avx512f avx512_bf16", "bf16")],
)
def test_bf16_is_native_where_there_are_kernels_for_it(root: Path, flags: str, native: str) -> None:
    assert OtherCpu(replace(EPYC, flags=flags).write(root)).native_dtype == native


def test_an_arm_with_bf16_computes_in_it(root: Path) -> None:
    assert OtherCpu(arm(root, 0xD4F)).native_dtype == "bf16"
    write(root, "proc/cpuinfo", NEOVERSE.replace(" bf16", "").format(0, 0xD0C))
    assert OtherCpu(root).native_dtype == "fp32"


def test_an_epyc_is_placed_and_named(root: Path) -> None:
    epyc = OtherCpu(EPYC.write(root))
    assert epyc.probe().found == "AMD EPYC 7763 64-Core Processor: 2 cpu cores usable of 2 online CPUs"
    assert epyc.identity().class_id == "cpu-amd-25-model-1-epyc-7763-64-core-2c-avx2-64g-metal"
    assert epyc.place(2, 1).cores == ((0,), (1,))
    assert (epyc.place(1, 0).threads, epyc.place(1, 1).threads, epyc.place(2, 0).threads) == (2, 1, 1)
    with pytest.raises(BadInput, match=r"--ranks 3: this host has 2 cpu cores; .*at most 2 ranks"):
        epyc.place(3, 0)


def test_an_arm_processor_is_known_by_its_part(root: Path, tmp_path: Path) -> None:
    one, other = OtherCpu(arm(root, 0xD40)), OtherCpu(arm(tmp_path / "other", 0xD4F))
    assert one.probe().found == "a processor without a model name (vendor 0x41): 2 cpu cores usable of 2 online CPUs"
    assert one.identity().class_id == "cpu-arm-8-model-3392-2c-arm-bf16-64g-metal"
    assert one.identity().facts["isa"] == ["asimd", "asimdhp", "sve", "i8mm", "bf16"]
    assert other.identity().class_id != one.identity().class_id


def test_the_processor_of_this_host_is_the_device_that_is_here() -> None:
    here = [name for name in PROCESSORS if device(name).probe().present]
    assert [processor().name] == (here or ["xeon"])
