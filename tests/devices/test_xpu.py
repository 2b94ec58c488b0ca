"""Intel GPUs through a stand-in xpu-smi and the kernel's render nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genqual.devices.base import Device
from genqual.devices.xpu import Xpu
from genqual.errors import BadInput

from .tools import executable, hanging, max_1550, xpu_smi
from .trees import write


def test_an_xpu_is_a_device() -> None:
    device: Device = Xpu()
    assert (device.name, device.torch_device, device.backend, device.exclusive) == ("xpu", "xpu", "xccl", False)


def test_the_backend_is_one_that_torch_names_so() -> None:
    # Read as text: this process must not import torch.
    found = [path for path in _torch_sources() if path.is_file()]
    if not found:
        pytest.skip("torch is not installed")
    assert 'XCCL = "xccl"' in found[0].read_text(encoding="utf-8")


def _torch_sources() -> list[Path]:
    from importlib.metadata import PackageNotFoundError, files

    try:
        listed = files("torch") or []
    except PackageNotFoundError:
        return []
    return [Path(str(f.locate())) for f in listed if str(f) == "torch/distributed/distributed_c10d.py"]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_cards_are_counted_named_and_placed(tools: Path, root: Path, count: int) -> None:
    xpu_smi(tools, {"device_list": [max_1550(index) for index in range(count)][::-1]})
    xpu = Xpu(root)
    presence = xpu.probe()
    assert (presence.count, presence.probe) == (count, "xpu-smi discovery -j")
    assert presence.found == f"{count} x Intel(R) Data Center GPU Max 1550"
    assert xpu.identity().class_id == f"intel-r-data-center-gpu-max-1550-{count}x-unknown"
    placed = xpu.place(count, 1)
    assert placed.env[-1] == {
        "ZE_AFFINITY_MASK": ",".join(str(index) for index in range(count)),
        "ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }
    assert placed.lease == tuple(f"xpu:{max_1550(index)['pci_bdf_address'].lower()}" for index in range(count))
    with pytest.raises(BadInput, match=rf"^--ranks {count + 1}: this host has {count} xpu cards? .*found by xpu-smi"):
        xpu.place(count + 1, 1)


@pytest.mark.parametrize("size", ["68719476736", 68719476736])
def test_memory_is_read_whether_a_string_or_a_number(tools: Path, size: Any) -> None:
    xpu_smi(tools, {"device_list": [max_1550(0, memory_physical_size_byte=size)]})
    assert Xpu().identity().class_id.endswith("-1x-64g")


def test_virtual_functions_count_only_where_there_is_nothing_else(tools: Path) -> None:
    virtual = max_1550(1, device_function_type="virtual")
    xpu_smi(tools, {"device_list": [max_1550(0), virtual, max_1550(2, device_type="NPU")]})
    assert Xpu().probe().count == 1
    xpu_smi(tools, {"device_list": [virtual]})
    assert Xpu().probe().count == 1


def test_integrated_graphics_are_named_not_counted_and_keep_their_number(tools: Path) -> None:
    integrated = max_1550(1, pci_bdf_address="0000:00:02.0", device_name="Intel(R) UHD Graphics 770")
    xpu_smi(tools, {"device_list": [max_1550(0), integrated]})
    presence = Xpu().probe()
    assert presence.count == 1
    assert "card 0 (Intel(R) UHD Graphics 770): integrated graphics" in presence.found
    # Level Zero in PCI order numbers the integrated one first.
    assert Xpu().place(1, 1).env[0]["ZE_AFFINITY_MASK"] == "1"


@pytest.mark.parametrize(("value", "numbers"), [("2,0", [0, 2]), ("1.0,1.1", [1]), ("9", []), ("", [0, 1, 2, 3])])
def test_ze_affinity_mask_is_honoured_and_kept_from_the_tool(
    tools: Path, monkeypatch: pytest.MonkeyPatch, value: str, numbers: list[int]
) -> None:
    xpu_smi(tools, {"device_list": [max_1550(index) for index in range(4)]})
    monkeypatch.setenv("ZE_AFFINITY_MASK", value)
    assert Xpu().probe().count == len(numbers)
    if numbers:
        assert Xpu().place(len(numbers), 1).env[0]["ZE_AFFINITY_MASK"] == ",".join(map(str, numbers))
    else:
        assert "ZE_AFFINITY_MASK=9 names cards that are not here: 9" in Xpu().probe().found


def render_node(root: Path, number: int, *, vendor: str = "0x8086", kind: str = "0x038000", slot: str = "") -> None:
    directory = f"sys/class/drm/renderD{number}/device"
    write(root, f"{directory}/vendor", vendor)
    write(root, f"{directory}/class", kind)
    write(root, f"{directory}/device", "0x0bd5")
    write(root, f"{directory}/uevent", f"DRIVER=i915\nPCI_SLOT_NAME={slot or f'0000:{number:02x}:00.0'}")


def test_render_nodes_stand_in_where_the_tool_is_absent(tools: Path, root: Path) -> None:
    render_node(root, 128)
    render_node(root, 129, vendor="0x10de")
    render_node(root, 130, kind="0x120000")  # a processing accelerator, no display device
    render_node(root, 131)
    render_node(root, 132, slot="0000:00:02.0")
    write(root, "sys/class/drm/card0/device/vendor", "0x8086")
    for number in (128, 129, 130, 132):
        write(root, f"dev/dri/renderD{number}", "")
    presence = Xpu(root).probe()
    assert presence.count == 1
    assert presence.probe == f"xpu-smi discovery -j and {root}/sys/class/drm"
    assert "card 0 (intel-gpu-0bd5): integrated graphics" in presence.found
    assert f"card 2 (intel-gpu-0bd5): no access to {root}/dev/dri/renderD131: group render?" in presence.found
    assert presence.found.endswith("xpu-smi is not on PATH")
    assert Xpu(root).place(1, 0).env[0]["ZE_AFFINITY_MASK"] == "1"


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        ({"error": "Level Zero Initialization Error", "errno": 3}, 3, "Level Zero Initialization Error"),
        ({"device_list": None}, 0, "no device_list in its answer"),
        ([1], 0, "no device_list in its answer"),
        ("no json", 0, "did not print JSON"),
        ("no json", 1, "xpu-smi exited with 1: no json"),
    ],
)
def test_a_tool_that_cannot_say_is_quoted(tools: Path, root: Path, answer: Any, code: int, why: str) -> None:
    xpu_smi(tools, answer, code=code)
    presence = Xpu(root).probe()
    assert (presence.count, why in presence.found) == (0, True)


def test_no_cards_a_hang_and_a_broken_tool_are_told_apart(tools: Path, root: Path) -> None:
    xpu_smi(tools, {"device_list": []})
    assert Xpu(root).probe().found == "no usable card"
    hanging(tools, "xpu-smi")
    assert "xpu-smi gave no answer in 0.3 s" in Xpu(root, timeout_s=0.3).probe().found
    executable(tools, "xpu-smi", "#!/nowhere\n")
    assert "xpu-smi does not start" in Xpu(root).probe().found
    assert Xpu(root).conditions()["cards"] is None
