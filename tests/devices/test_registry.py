"""Devices by entry point: ours, a third party's, and broken ones; nothing is probed and no torch imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genqual.devices import registry
from genqual.devices.xeon import Xeon
from genqual.errors import BadInput

Install = Callable[..., None]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The cache must not carry a test's plugins to another test."""
    registry._loaded.cache_clear()
    yield
    registry._loaded.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one device, as pip would: a module and a dist-info on sys.path."""

    def run(distribution: str, name: str, value: str, source: str) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[genqual.devices]\n{name} = {value}\n")
        (site / f"{value.split(':')[0]}.py").write_text(source)
        monkeypatch.syspath_prepend(site)

    return run


GOOD = """
class Tpu:
    name, torch_device, backend, native_dtype, exclusive = "tpu", "xla", "xla", "bf16", True
    summary = "a third party's"
    probe = identity = place = conditions = lambda self, *a, **k: None
"""


def test_ours_are_registered_under_their_own_names() -> None:
    found = registry.devices()
    assert {"cpu", "cuda", "hpu", "xeon", "xpu"} <= set(found)
    assert all(found[name].name == name for name in found)
    assert isinstance(registry.device("xeon"), Xeon)
    assert registry.device("xeon") is registry.devices()["xeon"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match=r"device 'gaudi': genqual knows cpu, cuda, hpu, xeon, xpu"):
        registry.device("gaudi")


def test_the_caller_cannot_change_what_is_registered() -> None:
    registry.devices().clear()
    assert "xeon" in registry.devices()


def test_a_third_party_device_stands_beside_ours(install: Install) -> None:
    install("genqual_tpu", "tpu", "gq_tpu_good:Tpu", GOOD)
    assert registry.device("tpu").torch_device == "xla"


@pytest.mark.parametrize(
    ("value", "source", "why"),
    [
        ("gq_bad_import:Tpu", "import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("gq_bad_name:Gone", GOOD, "AttributeError"),
        ("gq_bad_init:Tpu", "def Tpu(): raise RuntimeError('no licence')", "RuntimeError: no licence"),
        (
            "gq_bad_parts:Tpu",
            "class Tpu: name = 'tpu'; probe = place = None",
            "lacks torch_device, backend, .*identity",
        ),
        ("gq_bad_self:Tpu", GOOD.replace('"tpu"', '"npu"'), "calls itself 'npu'"),
    ],
)
def test_a_broken_third_party_device_is_named_with_its_package(
    install: Install, value: str, source: str, why: str
) -> None:
    install("genqual_tpu", "tpu", value, source)
    with pytest.raises(BadInput, match=rf"device 'tpu' from genqual_tpu 1.5 \({value}\).*{why}"):
        registry.devices()


def test_two_packages_cannot_claim_one_name(install: Install) -> None:
    install("genqual_tpu", "xeon", "gq_tpu_twice:Tpu", GOOD)
    with pytest.raises(BadInput, match=r"'xeon' is registered twice, by .*genqual_tpu 1.5 \(gq_tpu_twice:Tpu\)"):
        registry.devices()


def run_python(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def test_probing_every_device_imports_no_torch() -> None:
    code = (
        "import json, sys\n"
        "from genqual.devices.registry import devices\n"
        "for device in devices().values():\n"
        "    if device.probe().present:\n"
        "        device.identity(); device.place(1, 1)\n"
        "    device.conditions()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    heavy = {"torch", "transformers", "deepspeed", "accelerate", "habana_frameworks", "intel_extension_for_pytorch"}
    modules = run_python(code)
    assert "genqual.devices.cuda" in modules
    assert heavy.isdisjoint(modules)


def test_importing_the_devices_probes_nothing() -> None:
    code = (
        "import json, sys\n"
        "touched = []\n"
        "sys.addaudithook(lambda event, args: touched.append(str(args[0])) if event in ('open', 'subprocess.Popen') "
        "and str(args[0]).startswith(('/proc', '/sys/', '/dev/dri', '/dev/nvidia')) or event == 'subprocess.Popen' "
        "else None)\n"
        "import genqual.devices.registry as registry\n"
        "registry.devices()\n"
        "quiet = list(touched)\n"
        "registry.device('xeon').probe()\n"
        "assert touched, 'the hook hears nothing'\n"
        "print(json.dumps(quiet))"
    )
    assert run_python(code) == []
