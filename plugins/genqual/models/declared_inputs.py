"""How what enters the linear layers of a model is rounded at run time, by its checkpoint's own word. NumPy, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from genqual.models import weights
from genqual.models.quantised.checkpoint import Dequantised
from genqual.models.quantised.inputs import PRECISION_OF, InputRounding
from genqual.models.quantised.registry import section_of, undone
from genqual.models.spec import ModelSpec

FILE: Final = "genqual_inputs.json"
"""Beside the config.json of a dequantised copy: what the checkpoint that it was made of declares."""


def declared(spec: ModelSpec) -> dict[str, InputRounding]:
    """By module; empty where activations stay as they are, and where the format is not known here.

    Raises BadInput on a static scale that cannot be one.
    """
    here = weights.local(spec)
    if here.source != "directory":
        return {}
    config = weights.stored_config(here)
    file = Path(here.location) / FILE
    if section_of(config) is None:
        return read(file) if file.is_file() else {}
    if not undone(config):
        return {}
    found = weights.lazily(here)
    if not isinstance(found, Dequantised):
        return {}
    # A layer that drafts tokens is stored, and no part of the model.
    aside = weights.left_aside(here)
    return {name: how for name, how in found.inputs().items() if f"{name}.weight" not in aside}


def declared_in(spec: ModelSpec, precision: str) -> dict[str, InputRounding]:
    """As `declared`, in a precision that rounds activations by it; empty in any other, where nothing is read."""
    return declared(spec) if precision in PRECISION_OF.values() else {}


def read(file: Path) -> dict[str, InputRounding]:
    """What `write` wrote."""
    return {name: InputRounding.from_json(one) for name, one in json.loads(file.read_text()).items()}


def write(file: Path, found: Mapping[str, InputRounding]) -> None:
    """Keep `found` beside weights that no longer tell."""
    file.write_text(json.dumps({name: one.as_json() for name, one in found.items()}, indent=1) + "\n")
