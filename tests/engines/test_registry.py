"""Engines as the pytest process sees them: facts without torch."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from genqual import faults
from genqual.engines import registry, specs
from genqual.engines.base import EngineSpec
from genqual.errors import BadInput
from tests.here import CPU


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the registered entry points by (name, value) pairs."""

    def replace(*pairs: tuple[str, str]) -> None:
        found = [EntryPoint(name, value, registry.GROUP) for name, value in pairs]
        monkeypatch.setattr(registry, "entry_points", lambda group: found)
        registry.engines.cache_clear()

    yield replace
    registry.engines.cache_clear()


def test_the_engines_are_registered_under_their_names() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    known = registry.engines()
    assert sorted(declared["genqual.engines"]) == list(known), "install the checkout again: pip install -e ."
    assert set(known) >= {"accelerate", "deepspeed-inference", "deepspeed-zero", "transformers", "transformers-tp"}
    assert registry.engine("transformers") is specs.TRANSFORMERS


def test_an_unknown_engine_lists_the_known() -> None:
    with pytest.raises(BadInput, match=r"'tensorflow'.*deepspeed-inference.*transformers, transformers-compiled"):
        registry.engine("tensorflow")


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ((("gone", "genqual.engines.specs:GONE"),), "GONE"),
        ((("gone", "genqual.engines.no_such:X"),), "no_such"),
        ((("odd", "genqual.engines.specs:ALL_DTYPES"),), "not an EngineSpec"),
        ((("other", "genqual.engines.specs:TRANSFORMERS"),), "must be one name"),
    ],
)
def test_a_broken_entry_point_is_named(entries: Any, pairs: tuple[tuple[str, str], ...], says: str) -> None:
    entries(*pairs)
    with pytest.raises(BadInput, match=says):
        registry.engines()


def test_a_name_registered_twice_by_one_package_counts_once(entries: Any) -> None:
    entries(*[("transformers", "genqual.engines.specs:TRANSFORMERS")] * 2)  # an editable install beside a wheel
    assert list(registry.engines()) == ["transformers"]


@pytest.mark.parametrize("spec", registry.engines().values(), ids=lambda spec: spec.name)
def test_an_implementation_is_a_file_of_this_room(spec: EngineSpec) -> None:
    module, _, name = spec.implementation.partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert f"class {name}" in Path(found.origin).read_text(encoding="utf-8")


def test_reading_engines_and_faults_imports_nothing_heavy() -> None:
    code = (
        "import sys; from genqual.engines import registry; from genqual.conformance import faults; "
        "registry.engines(); print(sorted({'torch', 'transformers', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("engine", "device", "ranks", "architecture", "says"),
    [
        ("transformers", "xeon", 1, "bloom", None),
        ("transformers", "hpu", 1, "llama", None),
        ("transformers", "xeon", 2, "llama", "takes one rank, not 2"),
        ("transformers-compiled", "hpu", 1, "llama", "not on hpu"),
        ("transformers-tp", "xeon", 2, "llama", None),
        ("transformers-tp", "xeon", 2, "bloom", "no tensor parallel plan for bloom"),
        ("transformers-tp", "xeon", 2, "mpt", "no tensor parallel plan for mpt"),
        ("transformers-tp", "xeon", 2, "qwen3_moe", None),
        ("transformers-tp", "xeon", 1, "llama", "takes 2 to any number"),
        ("deepspeed-inference", "xeon", 1, "bloom", None),
        ("deepspeed-inference", "xeon", 8, "llama", None),
        ("deepspeed-inference", "xeon", 2, "qwen3", None),
        ("deepspeed-inference", "xeon", 2, "gpt2", "refuses GPT-2"),
        ("deepspeed-inference", "xeon", 2, "phi3", "AutoTP cuts parts that belong together"),
        ("deepspeed-inference", "xeon", 2, "olmoe", "knows bloom, deepseek_v2"),
    ],
)
def test_what_runs_where(engine: str, device: str, ranks: int, architecture: str, says: str | None) -> None:
    reason = registry.engine(engine).why_not(device=device, dtype="bf16", ranks=ranks, architecture=architecture)
    assert reason is None if says is None else says in str(reason)


def test_options_ride_behind_a_name() -> None:
    spec = registry.engine("transformers-compiled:cache_bucket=64+compile_mode=max-autotune")
    assert spec.options == {"cache_bucket": 64, "compile_mode": "max-autotune"}
    assert spec.name == "transformers-compiled:cache_bucket=64+compile_mode=max-autotune"
    assert spec.implementation == specs.TRANSFORMERS_COMPILED.implementation
    assert specs.TRANSFORMERS_COMPILED.options == {}


GRAPHS = ("static", "compile", "cuda", "hpu")


@pytest.mark.parametrize("name", ["transformers", "transformers-compiled"])
@pytest.mark.parametrize("graphs", ["none", *GRAPHS, ""])
def test_what_an_engine_can_do_follows_the_path_that_its_options_time(name: str, graphs: str) -> None:
    """Parts of a text are read through an eager cache, which no graph and no static cache is."""
    spec = registry.engine(f"{name}:graphs={graphs}" if graphs else name)
    recorded = graphs in GRAPHS if graphs else name == "transformers-compiled"
    assert (spec.lacking("passes") is None) is not recorded
    assert (spec.lacking("graph") is None) is recorded
    assert (spec.lacking("states") is None) is (graphs != "hpu")
    assert spec.lacking("stops") is None, "it is run by the cache and graph that are timed"
    if recorded:
        assert f"{spec.name} reads parts of a text through an eager cache" in str(spec.lacking("passes"))


@pytest.mark.parametrize(
    ("placement", "split", "offload"),
    [("auto", True, True), ("split", True, False), ("cpu-offload", False, True), ("disk-offload", False, True),
     ("disk", False, True), ("dispatch", False, False)],
)  # fmt: skip
def test_a_placement_is_judged_for_what_it_does(placement: str, split: bool, offload: bool) -> None:
    spec = registry.engine(f"accelerate:placement={placement}")
    assert [spec.lacking(one) is None for one in ("split", "offload")] == [split, offload]


def test_every_condition_is_of_an_ability_and_an_option_that_the_engine_has() -> None:
    for spec in registry.engines().values():
        for one in spec.conditions:
            assert one.ability in spec.abilities
            assert one.option in spec.accepts
    with pytest.raises(KeyError):
        specs.TRANSFORMERS.lacking("typo")


@pytest.mark.parametrize("setting", ["cache_buckets=64", "cache_bucket", "cache_bucket=", "cache_bucket=64+", ""])
def test_an_option_that_an_engine_does_not_take_lists_those_it_does(setting: str) -> None:
    with pytest.raises(BadInput, match=r"transformers-compiled does not accept .*; it accepts .*cache_bucket="):
        registry.engine(f"transformers-compiled:{setting}")


def test_a_precision_that_upstream_cannot_run_is_refused_with_its_reason() -> None:
    spec = replace(specs.TRANSFORMERS, lacks_dtypes=(("int8-deepspeed", "upstream says no"),))
    assert spec.why_not(device=CPU, dtype="int8-deepspeed", ranks=1, architecture="llama") == "upstream says no"


@pytest.mark.parametrize("fault", faults.CATALOGUE.values(), ids=lambda fault: fault.name)
def test_a_fault_names_a_function_and_engines_that_exist(fault: faults.Fault) -> None:
    module, _, name = fault.entry.partition(":")
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    assert re.search(rf"^def {name}\(\s*engine: Any,\s+rank: int", Path(found.origin).read_text(encoding="utf-8"), re.M)
    assert fault.engines <= set(registry.engines())


def test_an_unknown_fault_lists_the_known() -> None:
    with pytest.raises(BadInput, match=r"'typo'.*stale_kv.*rank_raise"):
        faults.fault("typo")
