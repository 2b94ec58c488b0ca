"""Other values of each field that an architecture reads, made from its declaration: what an engine may get wrong."""

from __future__ import annotations

from typing import Any

from genqual.conformance.oracle.fields import Field
from genqual.conformance.oracle.mlp import ACTIVATIONS
from genqual.conformance.oracle.registry import architecture_of
from genqual.errors import BadInput

from .small import Config

_ROTARY = {"rope_parameters", "rope_scaling"}  # told apart in test_rotary


def variations(config: Config) -> dict[str, Config]:
    """By field: `config` with another value of it, and without it where it is set, for the same weights.

    A field whose other values want other weights is not among them: an engine that ignores it cannot load.
    """
    model, fields = architecture_of(config).declared(config)
    found: dict[str, Config] = {}
    for name, field in fields.read.items():
        if name in _ROTARY:
            continue
        set_by = next((each for each in field.names if each in config), name)
        others: dict[str, Config] = {f"{name}={value}": {**config, set_by: value} for value in _others(field)}
        if set_by in config:
            others[f"{name} absent"] = {key: value for key, value in config.items() if key not in field.names}
        for change, changed in others.items():
            try:
                other, _ = architecture_of(changed).declared(changed)
            except BadInput:
                continue
            if other.shapes() == model.shapes():
                found[change] = changed
    return found


def _others(field: Field) -> list[Any]:
    value = field.value
    if field.kind == "flag":
        return [not value]
    if field.kind == "choice" and value not in ACTIVATIONS:
        return [word for word in field.among if word != value]
    if field.kind == "choice":
        different = [
            word for word in ("relu", "gelu_new", "quick_gelu") if ACTIVATIONS[word] is not ACTIVATIONS[str(value)]
        ]
        return different[:2]
    if field.kind in ("integer", "natural") and isinstance(value, int):
        return [other for other in (value + 1, value - 1, 1) if other != value]
    if field.kind == "limits" and isinstance(value, tuple):
        return [[value[0] * 0.5, value[1] * 0.5]]
    if field.kind == "number" and isinstance(value, float):
        return [value * 0.5 if value > 1e-3 else 0.01]
    return []
