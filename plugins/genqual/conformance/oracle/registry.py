"""Which architectures have an oracle: the modules of this package, and those that other packages register."""

from __future__ import annotations

import ast
import importlib
import math
import pkgutil
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from numpy.typing import NDArray

import genqual.conformance.oracle as package
from genqual import digest
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.oracle.spec import Architecture
from genqual.errors import BadInput

__all__ = ["Oracle", "architecture_of", "oracle_for", "parameters_of", "source_sha256", "supported"]

GROUP: Final = "genqual.oracles"
"""Entry point group: each names a module with an `ARCHITECTURE`, or the `Architecture` itself."""


class Oracle(Protocol):
    """Says what the logits of a model are. `independent` is False when it shares code with an engine under test."""

    @property
    def architecture(self) -> str: ...
    @property
    def independent(self) -> bool: ...
    @property
    def vocabulary(self) -> int: ...

    def logits(self, ids: Sequence[int] | I64) -> F64:
        """Logits (tokens, vocabulary) after each of `ids` (tokens,), teacher forced."""
        ...

    def greedy(self, prompt: Sequence[int] | I64, steps: int) -> I64:
        """The `steps` tokens (steps,) that follow `prompt` when the highest logit always wins."""
        ...


def last_logits(oracle: Oracle, ids: Sequence[int] | I64, count: int) -> F64:
    """The last `count` rows (count, vocabulary) of `oracle.logits(ids)`, by the oracle's shorter way if it has one."""
    shorter = getattr(oracle, "last_logits", None)
    found: F64 = shorter(ids, count) if shorter else oracle.logits(ids)[-count:]
    return found


def supported() -> tuple[str, ...]:
    """The `model_type`s that have an oracle of their own."""
    return tuple(sorted(_known()))


def architecture_of(config: Mapping[str, object]) -> Architecture:
    """The declaration of `config`'s `model_type`. Raises BadInput on one without an oracle."""
    model_type = config.get("model_type")
    found = _known().get(str(model_type)) if model_type is not None else None
    if found is None:
        raise BadInput(
            f"model_type {model_type!r}: genqual's own oracle knows {', '.join(supported())}; make this model's "
            f"reference with `genqual reference MODEL --by transformers`: fp32 on the CPU, and its verdicts say that "
            f"it is not independent"
        )
    return found[0]


def why_no_oracle(config: Mapping[str, object], stored: Collection[str] = ()) -> BadInput | None:
    """Why genqual's own oracle does not take `config` over a checkpoint with the names `stored`; None where it does."""
    try:
        architecture_of(config).declared(config, stored)
    except BadInput as reason:
        return reason
    return None


def is_contradiction(reason: BadInput) -> bool:
    """Whether `reason` is that two things of a checkpoint say otherwise, and not that something is unknown here."""
    return any(words in str(reason) for words in ("disagree", "what is right is not defined"))


def oracle_for(config: Mapping[str, object], weights: Mapping[str, NDArray[Any]], *, keep: bool = True) -> Oracle:
    """The oracle of `config` (a Hugging Face config.json, as a dict) over `weights` (Hugging Face names).

    `keep=False` converts each weight at every use: slower, but `weights` may be lazy and larger than memory.
    Raises BadInput on an architecture without an oracle, on fields it does not implement, and on weights that are
    missing, left over or misshapen.
    """
    return architecture_of(config).oracle(config, weights, keep=keep)


def parameters_of(config: Mapping[str, object], stored: Collection[str]) -> int | None:
    """Weights of the whole model by its declaration, over a checkpoint with the names `stored`; a tied head once.

    None where no architecture declares it, or its configuration is refused.
    """
    try:
        model, _ = architecture_of(config).declared(config, stored)
    except BadInput:
        return None
    return sum(math.prod(shape) for shape in model.shapes().values())


@cache
def source_sha256(model_type: str) -> str:
    """SHA-256 of the source text that makes up one architecture's oracle, kept in each reference: which one said so.

    Of the architecture's module and of the modules of this package that it imports, directly or not, by name and
    content: another architecture's file does not change it. Version 1, of references before there was a file an
    architecture, was the digest of three files.
    """
    found = _known().get(model_type)
    if found is None:
        raise BadInput(f"model_type {model_type!r}: no oracle of genqual, so it has no source")
    files = _files(found[1])
    return digest.of_parts(f"{name}\0".encode() + files[name].read_bytes() + b"\0" for name in sorted(files))


@cache
def _known() -> dict[str, tuple[Architecture, ModuleType]]:
    """Each architecture with the module that declares it; this package's first, so that none can be replaced."""
    found: dict[str, tuple[Architecture, ModuleType]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        declared = getattr(module, "ARCHITECTURE", None)
        if isinstance(declared, Architecture):
            found[declared.model_type] = declared, module
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        loaded = point.load()
        declared = getattr(loaded, "ARCHITECTURE", loaded)
        if not isinstance(declared, Architecture):
            raise BadInput(f"entry point {point.value!r} of {GROUP}: an Architecture is wanted, it is {declared!r}")
        found.setdefault(declared.model_type, (declared, importlib.import_module(point.value.split(":")[0])))
    return found


def _files(module: ModuleType) -> dict[str, Path]:
    """The files of `module` and of this package's modules that it imports, by dotted name."""
    files: dict[str, Path] = {}
    left = [module.__name__]
    while left:
        name = left.pop()
        file = importlib.import_module(name).__file__
        if name in files or file is None:
            continue
        files[name] = Path(file)
        left += _imported(files[name].read_text(encoding="utf-8"))
    return files


def _imported(text: str) -> list[str]:
    """Modules of this package that `text` imports."""
    modules = {f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)}
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name in modules]
