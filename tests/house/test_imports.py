"""Walk every import of the source tree and hold the directions of docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
LEVELS: Final = {
    "suites": 6,
    "fixtures": 5,
    "plugin": 4,
    "ranks": 3,
    "conformance": 3,
    "performance": 3,
    "results": 3,
    "engines": 2,
    "models": 1.5,
    "devices": 1,
    "words": 0,
}
WORDS: Final = {"spec", "errors", "paths", "genqual"}
HEAVY: Final = {"torch", "transformers", "deepspeed", "accelerate", "optimum", "habana_frameworks"}
MAY_BE_HEAVY: Final = (
    "plugins/genqual/engines/",
    "plugins/genqual/models/build.py",
    "plugins/genqual/models/load.py",
    "plugins/genqual/models/convert.py",
    "plugins/genqual/conformance/faults/",
    "plugins/genqual/gate/frozen.py",
    "plugins/genqual/metrics/roofline.py",
    "plugins/genqual/ranks/worker.py",
)
NEVER_HEAVY: Final = ("base.py", "projection.py", "registry.py", "specs.py")


def sources() -> list[Path]:
    return sorted(path for top in ("plugins/genqual", "suites", "fixtures") for path in (ROOT / top).rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    """The room of a dotted name below genqual: its first part if that is a room, else the plugin or the words."""
    first = parts[0] if parts else "genqual"
    if first in LEVELS:
        return first
    return "words" if first in WORDS else "plugin"


def own_room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return room(parts[2:] if parts[0] == "plugins" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "genqual":
                yield from ((node.lineno, f"genqual.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def wrong_way(path: Path) -> list[str]:
    here = own_room(path)
    found = []
    for line, name in imports(path):
        top, *rest = name.split(".")
        if top in ("suites", "fixtures", "tests", "plugins"):
            found.append(f"{path.relative_to(ROOT)}:{line}: {name}: a top-level name, not genqual's")
        if top != "genqual" or not rest or rest[0].startswith("_"):
            continue
        there = room(tuple(rest))
        if there != here and LEVELS[there] >= LEVELS[here]:
            found.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {there} ({name})")
    return found


def test_imports_point_downwards() -> None:
    assert not [problem for path in sources() for problem in wrong_way(path)]


def test_heavy_packages_stay_in_the_ranks() -> None:
    found = []
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(MAY_BE_HEAVY) and not (path.name in NEVER_HEAVY and "engines" in name):
            continue
        found += [f"{name}:{line}: {module}" for line, module in imports(path) if module.split(".")[0] in HEAVY]
    assert not found


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("devices", "from genqual.engines.base import EngineSpec"),
        ("results", "from genqual.ranks import pool"),
        ("engines", "def f() -> None:\n    import genqual.plugin"),
        ("models", "from genqual.engines import registry"),
        ("results", "import suites"),
    ],
)
def test_an_upward_import_is_seen(room: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plugins" / "genqual" / room / "new.py"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert wrong_way(path)
