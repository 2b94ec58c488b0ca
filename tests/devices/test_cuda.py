"""NVIDIA GPUs through a stand-in nvidia-smi and a stand-in binding of NVML."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from genqual.devices import nvml
from genqual.devices.base import Device
from genqual.devices.cuda import Cuda
from genqual.errors import BadInput

from .tools import NVIDIA_FIELDS, executable, h100, hanging, nvidia_smi
from .trees import Host


def test_a_cuda_is_a_device() -> None:
    device: Device = Cuda()
    assert (device.name, device.torch_device, device.backend, device.exclusive) == ("cuda", "cuda", "nccl", False)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_cards_are_counted_named_and_placed(tools: Path, root: Path, count: int) -> None:
    nvidia_smi(tools, [h100(index) for index in range(count)])
    cuda = Cuda(Host().write(root))
    presence = cuda.probe()
    assert presence.count == count
    assert presence.probe.startswith("nvidia-smi --query-gpu=index,uuid,")
    assert presence.found == f"{count} x NVIDIA H100 80GB HBM3; driver 550.54.15"
    identity = cuda.identity()
    assert identity.class_id == f"nvidia-h100-80gb-hbm3-{count}x-80g"
    assert identity.facts["drivers"] == ["550.54.15"]
    assert identity.facts["cpu_brand"] == "Intel(R) Xeon(R) Platinum 8480+"
    cards = identity.facts["cards"]
    assert isinstance(cards, list)
    assert cards[-1] == {
        "number": count - 1,
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 81559 * 2**20,
        "driver": "550.54.15",
        "uuid": h100(count - 1)["uuid"],
        "bus": h100(count - 1)["pci.bus_id"],
    }
    placed = cuda.place(count, 4)
    visible = ",".join(str(index) for index in range(count))
    assert placed.env == ({"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},) * count
    assert placed.cores == ()
    assert placed.lease == tuple(f"cuda:{h100(index)['uuid']}/{index}" for index in range(count))
    with pytest.raises(
        BadInput, match=rf"^--ranks {count + 1}: this host has {count} cuda cards? .*found by nvidia-smi"
    ):
        cuda.place(count + 1, 1)


@pytest.mark.parametrize(
    ("value", "order"),
    [
        ("1,0", [1, 0]),
        ("3", [3]),
        ("0,2,-1,1", [0, 2]),  # CUDA stops at the first name in vain
        ("GPU-00000002,0", [2, 0]),
        ("GPU-", []),  # not unique
        ("1,1", [1]),
        ("7", []),
        ("", []),
        ("none", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    tools: Path, monkeypatch: pytest.MonkeyPatch, value: str, order: list[int]
) -> None:
    nvidia_smi(tools, [h100(index) for index in range(4)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    cuda = Cuda()
    presence = cuda.probe()
    assert presence.count == len(order)
    assert f"{4 - len(order)} hidden by CUDA_VISIBLE_DEVICES={value}" in presence.found
    if order:
        assert cuda.place(len(order), 1).env[0]["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, order))
    else:
        with pytest.raises(BadInput, match=r"0 cuda cards .*Mend that"):
            cuda.place(1, 1)


def test_a_card_of_another_group_is_taken_last(tools: Path) -> None:
    nvidia_smi(tools, [h100(index) for index in range(3)])
    cuda = Cuda()
    first = cuda.place(1, 1)
    second = cuda.place(2, 1, taken=frozenset(first.lease))
    assert first.env[0]["CUDA_VISIBLE_DEVICES"] == "0"
    assert second.env[0]["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert cuda.place(3, 1, taken=frozenset(first.lease)).env[0]["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_lost_cards_and_cards_in_mig_mode_are_named_and_not_counted(tools: Path) -> None:
    lost = {"uuid": "[GPU is lost]", "memory.total": "[GPU is lost]", "name": "[GPU is lost]"}
    rows = [h100(0), h100(1, **lost), h100(2, **{"mig.mode.current": "Enabled"}), h100(3)]
    nvidia_smi(tools, rows, error="Unable to determine the device handle for GPU1", code=15)
    cuda = Cuda()
    presence = cuda.probe()
    assert presence.count == 2
    assert "card 1 (unknown): nvidia-smi cannot read it (lost or failed)" in presence.found
    assert "card 2 (NVIDIA H100 80GB HBM3): in MIG mode" in presence.found
    assert "exited with 15: Unable to determine" in presence.found
    assert cuda.identity().facts["cards_unusable"] == 2
    assert cuda.place(2, 1).env[0]["CUDA_VISIBLE_DEVICES"] == "0,3"


def test_mps_is_noticed_where_its_daemon_listens(tools: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tools, [h100(0)])
    cuda = Cuda(Host().write(root))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    assert "MPS" not in cuda.probe().found
    assert cuda.identity().facts["mps"] is False
    for place in (root / "tmp/nvidia-mps", root / "elsewhere"):
        place.mkdir(parents=True)
        (place / "control").touch()
        assert f"MPS is on ({place}/control)" in cuda.probe().found
        assert cuda.identity().facts["mps"] is True
        (place / "control").unlink()
        assert "MPS" not in cuda.probe().found
        monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(root / "elsewhere"))


def test_no_tool_and_no_cards_are_two_reasons(tools: Path) -> None:
    assert "pynvml is not installed" in Cuda().probe().found
    assert Cuda().probe().found.endswith("nvidia-smi is not on PATH")
    nvidia_smi(tools, ["No devices were found"], code=6)
    assert Cuda().probe().count == 0
    assert "pynvml is not installed" in Cuda().probe().found
    assert "No devices were found; nvidia-smi exited with 6" in Cuda().probe().found
    with pytest.raises(BadInput, match=r"0 cuda cards: .*No devices were found"):
        Cuda().identity()


def test_a_broken_driver_and_a_hanging_tool_are_named(tools: Path) -> None:
    executable(tools, "nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert "nvidia-smi exited with 9: NVIDIA-SMI has failed" in Cuda().probe().found
    hanging(tools, "nvidia-smi")
    presence = Cuda(timeout_s=0.3).probe()
    assert (presence.count, "nvidia-smi gave no answer in 0.3 s" in presence.found) == (0, True)
    assert Cuda(timeout_s=0.3).conditions()["cards"] is None


@pytest.mark.parametrize("name", ["clocks_event_reasons.active", "clocks_throttle_reasons.active"])
def test_conditions_name_what_throttles_in_old_and_new_drivers(tools: Path, name: str) -> None:
    fields = [field for field in NVIDIA_FIELDS if not field.startswith("clocks_")] + [name]
    nvidia_smi(tools, [h100(0, **{name: "0x0000000000000041"}), h100(1, **{"power.draw": "[N/A]"})], fields=fields)
    cards = Cuda().conditions()["cards"]
    assert isinstance(cards, list)
    assert cards[0] == {
        "number": 0,
        "temperature_c": 31.0,
        "power_w": 70.52,
        "sm_mhz": 1980.0,
        "memory_mhz": 2619.0,
        "utilization_percent": 0.0,
        "memory_used_bytes": 4 * 2**20,
        "throttle_reasons": ["hw_thermal_slowdown"],  # bit 0 is idleness, no disturbance
    }
    assert isinstance(cards[1], dict)
    assert cards[1]["power_w"] is None


class FakeNvml(ModuleType):
    """The part of nvidia-ml-py that is used, with two GPUs of which the second has fallen off the bus."""

    class NVMLError(Exception):
        """The base class of the binding's errors."""

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0
        self.starts = True

    def nvmlInit(self) -> None:
        if not self.starts:
            raise self.NVMLError("Driver/library version mismatch")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlSystemGetDriverVersion": b"570.1",
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * 2**30, used=5),
            "nvmlDeviceGetName": "NVIDIA A100-SXM4-80GB",
            "nvmlDeviceGetUUID": "GPU-abc",
            "nvmlDeviceGetPciInfo": SimpleNamespace(busId="00000000:17:00.0"),
            "nvmlDeviceGetCudaComputeCapability": (8, 0),
            "nvmlDeviceGetPowerUsage": 71500,
            "nvmlDeviceGetEnforcedPowerLimit": 400_000,
            "nvmlDeviceGetMaxClockInfo": 1593,
            "nvmlDeviceGetVbiosVersion": "92.00.45.00.05",
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetClockInfo": 1410,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
        }

        def answer(*arguments: Any) -> Any:
            if name == "nvmlDeviceGetHandleByIndex":
                if arguments == (1,):
                    raise self.NVMLError("GPU is lost")
                return "handle"
            if name in {"nvmlDeviceGetMigMode", "nvmlDeviceGetUtilizationRates"}:
                raise self.NVMLError("Not Supported")
            return answers[name]

        if name.startswith("nvmlDevice") or name in answers:
            return answer
        raise AttributeError(name)


@pytest.fixture
def binding(tools: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_nvml_is_asked_first_and_closed(binding: FakeNvml) -> None:
    cuda = Cuda()
    presence = cuda.probe()
    assert (presence.count, presence.probe) == (1, "NVML (nvidia-ml-py)")
    assert presence.found == "1 x NVIDIA A100-SXM4-80GB; driver 570.1; card 1 (unknown): NVML: GPU is lost"
    cards = cuda.identity().facts["cards"]
    assert isinstance(cards, list)
    assert isinstance(cards[0], dict)
    assert (cards[0]["compute_capability"], cards[0]["bus"]) == ("8.0", "00000000:17:00.0")
    assert (cards[0]["firmware"], cards[0]["power_cap_w"]) == ("92.00.45.00.05", 400.0)
    assert cards[0]["clocks_mhz"] == {"sm": 1593, "memory": 1593}
    readings = cuda.conditions()["cards"]
    assert isinstance(readings, list)
    assert isinstance(readings[0], dict)
    assert (readings[0]["power_w"], readings[0]["utilization_percent"], readings[1]) == (71.5, None, None)
    assert readings[0]["throttle_reasons"] == ["sw_power_cap", "sw_thermal_slowdown"]
    assert binding.open == 0


def test_nvidia_smi_stands_in_where_nvml_does_not_start(binding: FakeNvml, tools: Path) -> None:
    binding.starts = False
    assert "NVML: Driver/library version mismatch; nvidia-smi is not on PATH" in Cuda().probe().found
    nvidia_smi(tools, [h100(0)])
    assert Cuda().probe().count == 1


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_the_real_binding_has_what_is_asked_of_it() -> None:
    import inspect
    import re

    import pynvml

    used = set(re.findall(r"\b(nvml[A-Z]\w+|NVML_\w+|NVMLError)\b", inspect.getsource(nvml)))
    assert used - {"nvmlClocksEventReasons"} <= set(dir(pynvml))
    for bit, name in nvml.REASONS:
        constants = [value for key, value in vars(pynvml).items() if _same(key, name)]
        assert set(constants) == {bit}


def _same(constant: str, name: str) -> bool:
    return constant.lower() in {f"nvmlclocks{kind}reason{name.replace('_', '')}" for kind in ("event", "throttle")}
