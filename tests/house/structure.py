"""The packages of the source tree: who imports whom, circles, and what is too long. Reads files, imports none."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LEVELS: Final = (
    ("atomic", "digest", "dtypes", "errors", "moved", "paths", "toml_file", "genqual"),
    ("cases",),
    ("devices",),
    ("models",),
    ("engines", "records"),
    ("metrics", "conformance", "ranks", "storage"),
    ("gate", "signing", "faults"),
    ("analysis", "health"),
    ("session",),
    ("faults.matrix",),
    ("commands", "cli", "plugin"),
    ("fixtures", "__main__"),
    ("suites",),
)
"""Lowest first; a package imports only from levels below its own. A dotted name is a package of its own level."""

LONGEST: Final[Mapping[str, int]] = {"module": 400, "class": 250, "function": 80}


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement: `file` (relative to the root) at `line` needs the module `name`."""

    file: str
    line: int
    name: str


@dataclass(frozen=True)
class Tree:
    """The source tree below `root`."""

    root: Path = ROOT

    @cached_property
    def files(self) -> list[Path]:
        """Every source file of the installed package, suites and fixtures."""
        tops = ("plugins/genqual", "suites", "fixtures")
        return sorted(path for top in tops for path in (self.root / top).rglob("*.py"))

    def imports(self, path: Path) -> Iterator[Import]:
        """Imports of one file, wherever they stand in it. Raises ValueError on a relative one."""
        name = path.relative_to(self.root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (Import(name, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                if node.level or node.module is None:
                    raise ValueError(f"{name}:{node.lineno}: a relative import")
                # `from package import module` needs the module, so both are told apart by what is on disk.
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield Import(name, node.lineno, whole if self._is_module(whole) else node.module)

    def _is_module(self, dotted: str) -> bool:
        place = self._place(tuple(dotted.split(".")))
        return place is not None and (place.is_dir() or place.with_suffix(".py").is_file())

    def _place(self, parts: tuple[str, ...]) -> Path | None:
        if parts[0] != "genqual":
            return None
        top = self.root if len(parts) > 1 and parts[1] in ("suites", "fixtures") else self.root / "plugins" / "genqual"
        return top.joinpath(*parts[1:])

    def parts(self, path: Path) -> tuple[str, ...]:
        """The dotted name of a file below `genqual`, in parts."""
        parts = path.relative_to(self.root).with_suffix("").parts
        parts = parts[2:] if parts[0] == "plugins" else parts
        return parts[:-1] if parts[-1] == "__init__" else parts

    def room(self, parts: tuple[str, ...]) -> str:
        """The entry of `LEVELS` that a dotted name belongs to; its first part where there is none."""
        if ".".join(parts[:2]) in _LEVEL:
            return ".".join(parts[:2])
        return parts[0] if parts and parts[0] else "genqual"

    @cached_property
    def upward(self) -> list[str]:
        """Imports that do not point downwards, and top-level names that are not genqual's."""
        found = []
        for path in self.files:
            here = self.room(self.parts(path))
            for each in self.imports(path):
                top, *rest = each.name.split(".")
                if top in ("suites", "fixtures", "tests", "plugins"):
                    found.append(f"{each.file}:{each.line}: {each.name}: a top-level name, not genqual's")
                if top != "genqual" or (rest and rest[0].startswith("_")):
                    continue
                there = self.room(tuple(rest))
                if there != here and not _free(here, there) and _LEVEL.get(there, 99) >= _LEVEL.get(here, -1):
                    found.append(f"{each.file}:{each.line}: {here} imports {there} ({each.name})")
        return found

    @cached_property
    def modules(self) -> Counter[tuple[str, str]]:
        """(importing module, imported module), dotted below genqual, -> how many imports."""
        found: Counter[tuple[str, str]] = Counter()
        for path in self.files:
            here = ".".join(self.parts(path))
            for each in self.imports(path):
                top, *rest = each.name.split(".")
                if top == "genqual" and rest and ".".join(rest) != here:
                    found[here, ".".join(rest)] += 1
        return found

    @cached_property
    def arrows(self) -> Counter[tuple[str, str]]:
        """(importing package, imported package) -> how many imports."""
        found: Counter[tuple[str, str]] = Counter()
        for (here, there), count in self.modules.items():
            pair = self.room(tuple(here.split("."))), self.room(tuple(there.split(".")))
            if pair[0] != pair[1]:
                found[pair] += count
        return found

    @property
    def packages(self) -> list[str]:
        """Every package of `LEVELS` that there is."""
        return sorted({self.room(self.parts(path)) for path in self.files})

    @property
    def circles(self) -> list[list[str]]:
        """Packages, and modules, that import each other, directly or through others."""
        return [*_circles(self.arrows), *_circles(self.modules)]

    @property
    def too_long(self) -> list[str]:
        """Modules, classes and functions beyond `LONGEST` lines."""
        found = []
        for path in self.files:
            text, name = path.read_text(encoding="utf-8"), path.relative_to(self.root).as_posix()
            sizes = [("module", name, len(text.splitlines()))]
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    kind = "class" if isinstance(node, ast.ClassDef) else "function"
                    sizes.append((kind, f"{name}:{node.lineno}: {node.name}", (node.end_lineno or 0) - node.lineno + 1))
            found += [f"{where}: a {kind} of {size} lines" for kind, where, size in sizes if size > LONGEST[kind]]
        return found


_LEVEL: Final = {name: level for level, names in enumerate(LEVELS) for name in names}


def _free(here: str, there: str) -> bool:
    """The words of the lowest level, and the package's own `__init__`, may know each other."""
    return {here, there} <= set(LEVELS[0])


def _circles(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    below: dict[str, set[str]] = defaultdict(set)
    for here, there in arrows:
        below[here].add(there)
    reach = {name: _reach(name, below) for name in list(below)}
    groups = {
        tuple(sorted(n for n in reach[name] if name in reach.get(n, ()))) for name in reach if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def _reach(name: str, below: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        for other in below.get(todo.pop(), ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen
