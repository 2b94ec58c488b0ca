"""The marks, and which devices a `-m` expression names. Pure but for pytest's own expression parser."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any, Final

import pytest

SUITES: Final = {
    "conformance": "conformance(chapter, min_ranks=, requires_ability=, requires_option=, one_dtype=, last=): is it"
    " right; `requires_ability` of the engine, `one_dtype` of each engine and model, `last` of its case",
    "performance": "performance(chapter, metric=, requires_option=): is it fast enough; runs with --benchmark",
    "qualification": "qualification(chapter): does it stay so",
}
OTHERS: Final = {
    "genqual_unsupported": "genqual_unsupported(reason): set by the plugin on cases that an engine cannot run",
    "heavy": "heavy: JIT builds, real models or minutes of work; has a tox environment of its own",
}

FORMER: Final = {"requires_ability": "wants", "requires_option": "needs", "one_dtype": "once"}
"""What arguments of the marks were called before 0.2; third parties' suites may use them for one release."""


def asked(mark: pytest.Mark, name: str) -> Any:
    """What a mark says under `name`, or under its former name, with a warning; None where it says nothing."""
    former = FORMER.get(name)
    if former is not None and former in mark.kwargs and name not in mark.kwargs:
        warnings.warn(f"mark {mark.name}: {former}= is called {name}= now", DeprecationWarning, stacklevel=2)
        return mark.kwargs[former]
    return mark.kwargs.get(name)


def register(config: pytest.Config, devices: Iterable[tuple[str, str]]) -> None:
    """Declare the marks: one a suite, one a device (name, summary)."""
    for line in (*SUITES.values(), *OTHERS.values()):
        config.addinivalue_line("markers", line)
    for name, summary in devices:
        config.addinivalue_line("markers", f"{name}: {summary}")


def named(markexpr: str, devices: Iterable[str]) -> frozenset[str]:
    """The devices that `markexpr` asks for: `xeon`, `hpu and conformance`, but not the one in `not hpu`.

    A device counts when its word stands in the expression and the expression is true of an item that has this device's
    mark, whichever suite the item is of, and the word is not only ruled out.
    """
    words = set(re.findall(r"\w+", markexpr))
    return frozenset(name for name in devices if name in words and not _ruled_out(markexpr, name))


def _ruled_out(markexpr: str, name: str) -> bool:
    return len(re.findall(rf"\b{name}\b", markexpr)) == len(re.findall(rf"\bnot\s+\(?\s*{name}\b", markexpr))
