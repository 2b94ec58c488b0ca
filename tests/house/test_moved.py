"""Old module names, for one release: imports, entry strings and other builds' ranks."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from genqual.moved import MODULES, former


def run(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)


def test_every_target_exists_and_no_old_name_shadows_a_new_module() -> None:
    assert [new for new in MODULES.values() if find_spec(f"genqual.{new}") is None] == []
    assert len(set(MODULES.values())) == len(MODULES)


def test_an_old_name_is_the_new_module_and_warns() -> None:
    code = (
        "import importlib, sys, warnings; from genqual.moved import MODULES\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    import genqual.performance.evalues as old\n"
        "    from genqual.results.record import Record as Old\n"
        "    from genqual.conformance.faults import fault\n"
        "from genqual.gate import evalues as new; from genqual.records.record import Record as New\n"
        "import genqual.faults\n"
        "assert old is new and Old is New and fault is genqual.faults.fault\n"
        "assert new.__spec__.name == 'genqual.gate.evalues', new.__spec__\n"
        "assert len(seen) >= 3 and all(one.category is DeprecationWarning for one in seen), seen\n"
        "assert 'genqual.gate.evalues' in str(seen[0].message)\n"
    )
    found = run(code)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "entry", ["genqual.engines.transformers_eager:TransformersEager", "genqual.engines.hf:HfEngine"]
)
def test_entry_strings_of_third_parties_still_load(entry: str) -> None:
    module, _, name = entry.partition(":")
    found = run(f"import importlib; print(getattr(importlib.import_module({module!r}), {name!r}).__module__)")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().startswith("genqual.engines.hf.")


def test_what_never_existed_is_still_missing() -> None:
    for name in ("genqual.performance.nothing", "genqual.results.nothing", "genqual.nothing"):
        found = run(f"import {name}")
        assert "ModuleNotFoundError" in found.stderr, found.stderr


def test_former_names_are_those_of_builds_before_the_move() -> None:
    assert former("genqual.gate.rank_launch:launch") == "genqual.performance.alternate:launch"
    assert (
        former("genqual.engines.hf.eager:TransformersEager") == "genqual.engines.transformers_eager:TransformersEager"
    )
    assert former("mine.engine:Engine") == "mine.engine:Engine"
    assert former("genqual.ranks.worker:main") == "genqual.ranks.worker:main"


def test_every_entry_string_names_a_module_that_exists() -> None:
    from genqual.engines.registry import engines
    from genqual.faults import CATALOGUE

    entries = {one.entry for one in CATALOGUE.values()}
    for spec in engines().values():
        entries |= {spec.implementation, *filter(None, spec.abilities.values())}
    assert len(entries) > 90
    assert [entry for entry in sorted(entries) if find_spec(entry.partition(":")[0]) is None] == []
