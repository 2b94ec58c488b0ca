"""Gaudi cards through a stand-in hl-smi, the driver's /sys and a stand-in binding of HLML."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from genqual.devices import hlml, simulated
from genqual.devices.base import Device
from genqual.devices.hpu import Hpu
from genqual.errors import BadInput

from .tools import GAUDI_FIELDS, gaudi, hanging, hl_smi
from .trees import write

# The order and the mapping of a real HLS-Gaudi2, as Intel's documentation prints them: index is not module.
MODULES = {3: 6, 1: 4, 2: 7, 0: 5, 4: 2, 6: 0, 7: 3, 5: 1}


def eight(**changes: Any) -> list[dict[str, Any]]:
    return [gaudi(index, module, **changes) for index, module in MODULES.items()]


def driver_state(root: Path, index: int, status: str, *, module: int | None = None) -> None:
    directory = f"sys/class/accel/accel{index}/device"
    write(root, f"{directory}/pci_addr", gaudi(index, 0)["bus_id"])
    write(root, f"{directory}/status", status)
    if module is not None:
        write(root, f"{directory}/module_id", module)


def test_an_hpu_is_a_device() -> None:
    device: Device = Hpu()
    assert (device.name, device.torch_device, device.backend, device.exclusive) == ("hpu", "hpu", "hccl", True)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_cards_are_counted_named_and_placed_by_module(tools: Path, root: Path, count: int) -> None:
    hl_smi(tools, sorted(eight(), key=lambda row: int(row["module_id"]))[:count][::-1])
    hpu = Hpu(root)
    presence = hpu.probe()
    assert presence.count == count
    assert presence.probe.startswith("hl-smi --query-aip=index,module_id,name,driver_version,memory.total")
    assert presence.found == f"{count} x HL-225; driver 1.21.0-ca59b5a"
    identity = hpu.identity()
    assert identity.class_id == f"gaudi2-hl-225-{count}x-96g"
    cards = identity.facts["cards"]
    assert isinstance(cards, list)
    assert [card["number"] for card in cards if isinstance(card, dict)] == list(range(count))
    placed = hpu.place(count, 0)
    modules = ",".join(str(module) for module in range(count))
    assert placed.env == ({"HABANA_VISIBLE_MODULES": modules, "PT_HPU_LAZY_MODE": "1"},) * count
    assert placed.lease == tuple(f"hpu:{module}" for module in range(count))
    with pytest.raises(BadInput, match=rf"^--ranks {count + 1}: this host has {count} hpu cards? .*found by hl-smi"):
        hpu.place(count + 1, 1)


@pytest.mark.parametrize(
    ("name", "kind"), [("HL-205", "gaudi-hl-205"), ("HL-225B", "gaudi2-hl-225b"), ("HL-325L", "gaudi3-hl-325l")]
)
def test_the_class_names_the_generation(tools: Path, name: str, kind: str) -> None:
    hl_smi(tools, [gaudi(0, 0, name=name)])
    assert Hpu().identity().class_id == f"{kind}-1x-96g"


@pytest.mark.parametrize(
    ("ranks", "taken", "modules"),
    [
        (1, [], "0"),
        (1, [0], "1"),
        (2, [], "0,1"),
        (2, [1], "2,3"),  # not 0 and 2: only aligned pairs are supported
        (2, [0, 3, 5], "6,7"),
        (4, [2], "4,5,6,7"),
        (4, [0, 7], "1,2,3,4"),  # no free block: any free cards
        (3, [0], "1,2,3"),
        (4, [0, 1, 2, 4, 5], "0,1,2,3"),  # overlaps anyway: then a supported block
        (8, [3], "0,1,2,3,4,5,6,7"),
    ],
)
def test_groups_get_aligned_blocks_of_modules(tools: Path, ranks: int, taken: list[int], modules: str) -> None:
    hl_smi(tools, eight())
    placed = Hpu().place(ranks, 0, taken=frozenset(f"hpu:{module}" for module in taken))
    assert placed.env[0]["HABANA_VISIBLE_MODULES"] == modules


def test_a_guest_with_modules_out_of_line_still_gets_a_group(tools: Path) -> None:
    hl_smi(tools, [gaudi(index, module) for index, module in enumerate([1, 4, 5, 2])])
    assert Hpu().place(2, 0).env[0]["HABANA_VISIBLE_MODULES"] == "4,5"
    assert Hpu().place(4, 0).env[0]["HABANA_VISIBLE_MODULES"] == "1,2,4,5"


@pytest.mark.parametrize(
    ("value", "modules"),
    [("4,5", [4, 5]), ("all", list(range(8))), ("", list(range(8))), ("5, 4 ,9", [4, 5]), ("x", [])],
)
def test_habana_visible_modules_is_honoured(
    tools: Path, monkeypatch: pytest.MonkeyPatch, value: str, modules: list[int]
) -> None:
    hl_smi(tools, eight())
    monkeypatch.setenv("HABANA_VISIBLE_MODULES", value)
    presence = Hpu().probe()
    assert presence.count == len(modules)
    assert ("names modules that are not here: 9" in presence.found) == ("9" in value)
    if modules:
        placed = Hpu().place(len(modules), 0)
        assert placed.env[0]["HABANA_VISIBLE_MODULES"] == ",".join(map(str, modules))


def test_lazy_mode_is_always_explicit_and_the_callers_choice_stays(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hl_smi(tools, [gaudi(0, 0)])
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "0")
    assert Hpu().place(1, 0).env[0]["PT_HPU_LAZY_MODE"] == "0"
    monkeypatch.setenv("PT_HPU_LAZY_MODE", "true")
    with pytest.raises(BadInput, match="PT_HPU_LAZY_MODE=true: set 1"):
        Hpu().place(1, 0)


def test_a_card_the_driver_calls_bad_is_named_and_not_counted(tools: Path, root: Path) -> None:
    hl_smi(tools, eight())
    for index, module in MODULES.items():
        driver_state(root, index, "Operational" if index else "in reset", module=module)
    # An NPU lists itself under /sys/class/accel too, without these files.
    write(root, "sys/class/accel/accel9/device/vendor", "0x8086")
    presence = Hpu(root).probe()
    assert presence.count == 7
    assert "card 5 (HL-225): the driver says 'in reset'" in presence.found
    placed = Hpu(root).place(4, 0)
    assert placed.env[0]["HABANA_VISIBLE_MODULES"] == "0,1,2,3"
    with pytest.raises(BadInput, match=r"this host has 7 hpu cards .*in reset"):
        Hpu(root).place(8, 0)


def test_a_card_hl_smi_cannot_read_and_one_it_does_not_list_are_named(tools: Path, root: Path) -> None:
    unreadable = gaudi(1, 4, **dict.fromkeys(("module_id", "memory.total", "uuid"), "N/A"))
    hl_smi(tools, [gaudi(0, 5), unreadable])
    driver_state(root, 1, "operational", module=4)
    driver_state(root, 2, "malfunction")
    presence = Hpu(root).probe()
    assert presence.count == 1
    assert "card 4 (HL-225): hl-smi cannot read its module_id, memory.total" in presence.found
    assert "the driver says 'malfunction', and no tool lists it" in presence.found


def test_the_older_place_of_the_drivers_files_is_read(tools: Path, root: Path) -> None:
    hl_smi(tools, [gaudi(0, 0)])
    write(root, "sys/class/habanalabs/hl0/pci_addr", gaudi(0, 0)["bus_id"])
    write(root, "sys/class/habanalabs/hl0/status", "Malfunction")
    assert "card 0 (HL-225): the driver says 'Malfunction'" in Hpu(root).probe().found


def test_no_tool_a_refusal_and_a_hang_are_named(tools: Path, root: Path) -> None:
    hpu = Hpu(root, timeout_s=0.3)
    assert hpu.probe().found == f"no usable card; hl-smi is not on PATH; no {root}/usr/lib/habanalabs/libhlml.so"
    driver_state(root, 0, "Operational", module=3)
    assert "card 3 (unknown): the driver says 'Operational', and no tool lists it" in hpu.probe().found
    hl_smi(tools, [], error="Habanalabs driver is not loaded", code=1)
    assert (Hpu().probe().count, "exited with 1: Habanalabs driver" in Hpu().probe().found) == (0, True)
    hanging(tools, "hl-smi")
    assert "hl-smi gave no answer in 0.3 s" in hpu.probe().found
    assert hpu.conditions()["cards"] is None


def test_conditions_survive_a_tool_without_the_newer_fields(tools: Path) -> None:
    hl_smi(tools, [gaudi(0, 5, **{"stats.violation.power": "12"})])
    (reading,) = Hpu().readings() or [None]
    assert reading == {
        "number": 5,
        "memory_used_bytes": 768 * 2**20,
        "utilization_percent": 0.0,
        "temperature_c": 27.0,
        "power_w": 94.0,
        "violation_power": "12",
        "violation_thermal": "0",
    }
    hl_smi(tools, [gaudi(0, 5)], fields=[field for field in GAUDI_FIELDS if not field.startswith("stats")])
    (older,) = Hpu().readings() or [None]
    assert isinstance(older, dict)
    assert (older["power_w"], older["violation_power"]) == (94.0, None)


class FakeHlml(ModuleType):
    """The part of habana-pyhlml that is used; the second card does not answer."""

    class HLMLError(Exception):
        """The base class of the binding's errors."""

    def __getattr__(self, name: str) -> Any:
        answers = {
            "hlmlInit": None,
            "hlmlShutdown": None,
            "hlmlGetDriverVersion": b"1.21.0",
            "hlmlDeviceGetCount": 2,
            "hlmlDeviceGetModuleID": 6,
            "hlmlDeviceGetName": b"HL-225",
            "hlmlDeviceGetMemoryInfo": SimpleNamespace(total=96 * 2**30),
            "hlmlDeviceGetUUID": b"01P0",
            "hlmlDeviceGetPCIInfo": SimpleNamespace(bus_id=b"0000:19:00.0"),
        }

        def answer(*arguments: Any) -> Any:
            if name == "hlmlDeviceGetHandleByIndex":
                if arguments == (1,):
                    raise self.HLMLError("HLML Error with code 15")
                return "handle"
            return answers[name]

        if name.startswith("hlml"):
            return answer
        raise AttributeError(name)


def test_hlml_stands_in_where_hl_smi_is_absent(tools: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, hlml.LIBRARY, "")
    assert "pyhlml is not installed" in Hpu(root).probe().found
    monkeypatch.setitem(sys.modules, "pyhlml", FakeHlml("pyhlml"))
    presence = Hpu(root).probe()
    assert (presence.count, presence.probe) == (1, "HLML (habana-pyhlml)")
    assert presence.found == (
        "1 x HL-225; driver 1.21.0; card -1 (unknown): HLML: HLML Error with code 15; hl-smi is not on PATH"
    )
    assert Hpu(root).place(1, 0).env[0]["HABANA_VISIBLE_MODULES"] == "6"


def test_a_binding_that_warns_on_import_does_no_harm(
    tools: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root, hlml.LIBRARY, "")
    source = (
        "import warnings\nwarnings.warn('of its own modules', DeprecationWarning, stacklevel=2)\n"
        "class HLMLError(Exception): pass\n"
        "def hlmlInit(): raise HLMLError('HLML Error with code 1')"
    )
    write(tmp_path, "site/pyhlml.py", source)
    monkeypatch.delitem(sys.modules, "pyhlml")
    monkeypatch.syspath_prepend(tmp_path / "site")
    try:
        assert "HLML: HLML Error with code 1" in Hpu(root).probe().found
    finally:
        sys.modules.pop("pyhlml", None)


@pytest.mark.skipif(importlib.util.find_spec("pyhlml") is None, reason="habana-pyhlml is not installed")
def test_the_real_binding_has_what_is_asked_of_it() -> None:
    import inspect
    import re

    with warnings.catch_warnings():
        # The binding warns of its own modules.
        warnings.simplefilter("ignore")
        import pyhlml

    assert set(re.findall(r"\b(hlml[A-Z]\w+|HLMLError)\b", inspect.getsource(hlml))) <= set(dir(pyhlml))


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulated.VARIABLE, "")
    simulated.switch_on()


@pytest.mark.usefixtures("simulation")
@pytest.mark.parametrize("count", [1, 2, 8])
def test_simulated_cards_say_so_in_their_class_and_their_facts(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setenv(simulated.CARDS, str(count))
    assert Hpu().probe().count == count
    identity = Hpu().identity()
    assert identity.class_id == f"simulated-gaudi2-hl-225-{count}x-96g"
    assert identity.facts["simulated"] is True
    environment = Hpu().place(count, 0).env[0]
    assert (Path(environment["PYTHONPATH"].split(os.pathsep)[0]) / "habana_frameworks").is_dir()
    assert environment["HABANA_VISIBLE_MODULES"] == ",".join(map(str, range(count)))
    assert Hpu().conditions()["cards"] is None


@pytest.mark.usefixtures("simulation")
def test_simulated_cards_are_no_exclusive_ones() -> None:
    device: Device = Hpu()
    assert not device.exclusive


@pytest.mark.usefixtures("simulation")
@pytest.mark.parametrize("count", ["0", "9", "two"])
def test_a_count_that_no_host_has_is_no_card(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv(simulated.CARDS, count)
    presence = Hpu().probe()
    assert (presence.count, "must be 1 to 8" in presence.found) == (0, True)


def test_without_a_stand_in_nothing_is_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simulated.VARIABLE, str(tmp_path))
    with pytest.raises(BadInput, match="holds no stand-in for Habana's packages"):
        simulated.switch_on()
