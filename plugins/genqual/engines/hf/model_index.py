"""What transformers' model folders export, kept from process to process instead of read from 2,000 files twice in each.

transformers reads every file below `transformers/models` whenever it is imported, and again with its models: 0.6 of 3 s
of a rank's start. What it finds is kept here under a digest of the names, sizes and times of those files, so a changed
file is read again. Where nothing can be kept, transformers reads as ever.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from genqual import digest
from genqual.atomic import write_whole
from genqual.models.catalogue import cache_dir

READER: Final = "transformers.utils.import_utils"
FUNCTION: Final = "create_import_structure_from_path"
Found = dict[Any, Any]  # by folder: the same again; by frozenset of packages that are needed: names by module


@contextlib.contextmanager
def kept_index() -> Iterator[None]:
    """While transformers is imported in this block, its reader of model folders looks here first."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds the one module as others do, and has its reader replaced once it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != READER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._real  # who asks for the source asks as ever
        if read := getattr(module, FUNCTION, None):
            setattr(module, FUNCTION, _looking_first(read))


def _looking_first(read: Callable[[Any], Found]) -> Callable[[Any], Found]:
    """`read`, which for the folder of all models is asked once an installation."""

    def found(module_path: Any) -> Found:
        folder = Path(module_path)
        folder = folder.parent if folder.is_file() else folder
        if folder.name != "models" or folder.parent.name != "transformers":
            return read(module_path)
        kept = cache_dir() / "transformers-models" / f"{state_of(folder)[:32]}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):
            if known := decoded(json.loads(kept.read_text(encoding="utf-8"))):
                return known
        fresh = read(module_path)
        with contextlib.suppress(OSError):
            write_whole(kept, json.dumps(encoded(fresh)).encode())
        return fresh

    return found


def state_of(folder: Path) -> str:
    """A digest of the names, sizes and times of the Python files below a folder, and of the Python that reads them."""
    lines = [sys.version, str(folder)]
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                status = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118  2,000 files: pathlib takes as long again
                lines.append(f"{root}/{name} {status.st_size} {status.st_mtime_ns}")
    return digest.of_text("\n".join(sorted(lines)))


def encoded(found: Found) -> list[list[Any]]:
    """As JSON: pairs, because JSON has no sets for keys. `[packages, names by module]`, or `folder, the same again`."""
    return [
        [key, encoded(value)]
        if isinstance(key, str)
        else [sorted(key), {module: sorted(names) for module, names in value.items()}]
        for key, value in found.items()
    ]


def decoded(pairs: Any) -> Found:
    """What was `encoded`. Raises ValueError or TypeError on anything else."""
    if not isinstance(pairs, list):
        raise TypeError(f"pairs are wanted, not {type(pairs).__name__}")
    found: Found = {}
    for key, value in pairs:
        if isinstance(key, str):
            found[key] = decoded(value)
        else:
            found[frozenset(key)] = {module: set(names) for module, names in dict(value).items()}
    return found
