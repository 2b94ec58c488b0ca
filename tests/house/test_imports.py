"""Hold the directions of docs/architecture.md: imports, circles, where heavy packages may be imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.house.structure import ROOT, Tree

HEAVY: Final = {"torch", "transformers", "deepspeed", "accelerate", "optimum", "habana_frameworks"}
MAY_BE_HEAVY: Final = (
    "plugins/genqual/engines/",
    "plugins/genqual/models/build.py",
    "plugins/genqual/models/load.py",
    "plugins/genqual/models/load_quantised.py",
    "plugins/genqual/models/convert.py",
    "plugins/genqual/faults/injectors/",
    "plugins/genqual/gate/frozen.py",
    "plugins/genqual/health/cores_in_rank.py",
    "plugins/genqual/health/links_in_rank.py",
    "plugins/genqual/health/prints_in_rank.py",
    "plugins/genqual/health/products.py",
    "plugins/genqual/health/repeats_in_rank.py",
    "plugins/genqual/health/stored_in_rank.py",
    "plugins/genqual/health/stress.py",
    "plugins/genqual/metrics/roofline.py",
    "plugins/genqual/ranks/worker.py",
)
NEVER_HEAVY: Final = ("base.py", "projection.py", "registry.py", "specs.py")
PURE: Final = {"numpy", "safetensors"}
"""What `conformance` may import beside the standard library and genqual."""


def test_imports_point_downwards() -> None:
    assert not Tree().upward


def test_there_is_no_circle() -> None:
    assert not Tree().circles


def test_nothing_is_too_long_to_read() -> None:
    assert not Tree().too_long


def test_heavy_packages_stay_in_the_ranks() -> None:
    tree, found = Tree(), []
    for path in tree.files:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(MAY_BE_HEAVY) and not (path.parent.name == "engines" and path.name in NEVER_HEAVY):
            continue
        found += [each for each in tree.imports(path) if each.name.split(".")[0] in HEAVY]
    assert not found


def test_conformance_is_numpy_only() -> None:
    tree = Tree()
    found = [
        each
        for path in tree.files
        if tree.room(tree.parts(path)) == "conformance"
        for each in tree.imports(path)
        if each.name.split(".")[0] not in PURE | {"genqual"} | sys.stdlib_module_names
    ]
    assert not found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("devices/new.py", "from genqual.engines.base import EngineSpec"),
        ("records/new.py", "from genqual.ranks import pool"),
        ("engines/new.py", "def f() -> None:\n    import genqual.plugin"),
        ("models/new.py", "from genqual.engines import registry"),
        ("records/new.py", "import suites"),
        ("session/new.py", "from genqual.faults.matrix import store"),
        ("unknown/new.py", "from genqual.cases import Case"),
    ],
)
def test_an_upward_import_is_seen(file: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "plugins" / "genqual" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    real = ROOT / "plugins" / "genqual"
    for package in ("ranks/pool.py", "engines/registry.py", "faults/matrix/store.py"):
        (tmp_path / "plugins" / "genqual" / package).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "plugins" / "genqual" / package).write_text("")
        assert (real / package).is_file()
    assert Tree(tmp_path).upward


def test_circles_and_long_parts_are_seen(tmp_path: Path) -> None:
    place = tmp_path / "plugins" / "genqual" / "engines"
    place.mkdir(parents=True)
    (place / "one.py").write_text("from genqual.engines import two\n")
    (place / "two.py").write_text("def f() -> None:\n    from genqual.engines.one import g\n" + "    x = 1\n" * 100)
    tree = Tree(tmp_path)
    assert tree.circles == [["engines.one", "engines.two"]]
    assert tree.too_long == ["plugins/genqual/engines/two.py:1: f: a function of 102 lines"]
