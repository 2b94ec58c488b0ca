"""Whether the gate may pair with the build that a baseline was measured with. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from genqual.cases import Case
from genqual.engines.registry import engine
from genqual.gate.baseline_file import Entry
from genqual.gate.other_build import unknown_commit
from genqual.ranks.client import Generator
from genqual.records.software import versions

PACKAGES: Final = (
    *("torch", "transformers", "tokenizers", "safetensors", "accelerate", "deepspeed", "optimum", "optimum-habana"),
    *("optimum-intel", "habana-torch-plugin", "openvino", "bitsandbytes", "torchao", "gguf", "numpy"),
)
"""Distributions that engines are made of; whichever of them are installed."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """How a run pairs: `generator` makes ranks of the commit that an entry names. Raises BadInput where it cannot."""

    generator: Callable[[Case, Entry], Generator]


def packages_of(case: Case) -> dict[str, str]:
    """Version by distribution of what the engine of `case` is made of here."""
    modules = {name.split(".")[0].replace("_", "-") for name in engine(case.engine).modules}
    return versions(sorted({*PACKAGES, *modules}))


def why_not(case: Case, entry: Entry) -> str:
    """Why launches of the entry's own build in turns with today's would not judge today's; or nothing.

    The other build has the code of its commit and the packages that are installed here. What differs in those would be
    in both builds, and pairing would hide it.
    """
    if engine(case.engine).settings:
        return f"{case.engine} is not started from a build of this repository"
    if entry.packages is None:
        return "this baseline does not name the versions of its engine's packages (`genqual rebase` records them)"
    here = packages_of(case)
    differ = [
        f"{name} was {entry.packages.get(name, 'absent')} and is {here.get(name, 'absent')}"
        for name in sorted({*here, *entry.packages})
        if here.get(name) != entry.packages.get(name)
    ]
    if differ:
        return f"both builds would have what changed since the baseline ({', '.join(differ)})"
    return unknown_commit(entry.provenance.commit)
