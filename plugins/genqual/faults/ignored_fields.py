"""Faults "the engine ignores field X of config.json", made from what each architecture's oracle declares. Pure.

No field is listed here: those that an architecture reads are found by reading a configuration, and so are the keys of
its rotary dictionary. An engine that ignores a field computes with a value of its own: the declared default where the
configuration says another, else one that is near.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from genqual.conformance.oracle.fields import Field
from genqual.conformance.oracle.mlp import ACTIVATIONS
from genqual.conformance.oracle.registry import architecture_of, supported
from genqual.conformance.oracle.rotary_fields import parameters
from genqual.conformance.oracle.spec import Model
from genqual.errors import BadInput
from genqual.faults.fault import HERE, Fault
from genqual.models import embedded

Config = Mapping[str, Any]

GROUP: Final = "ignored fields"
PREFIX: Final = "ignores_"
_ROTARY: Final = ("rope_parameters", "rope_scaling")
_SPELT: Final = ("rope_theta", "partial_rotary_factor")  # keys of the rotary dictionary that are fields as well


def ignoring(config: Config) -> dict[str, dict[str, Any]]:
    """Field -> the configuration as an engine takes it that ignores the field, where the weights can still be loaded.

    Keys of the rotary dictionary are named `rope.KEY`. Raises BadInput where no oracle knows the configuration.
    """
    return {field: changed for field, changed in _candidates(config) if changed is not None}


def unloadable(config: Config) -> list[str]:
    """Fields without which the weights fit no longer: an engine that ignores one cannot load, which needs no judge."""
    return [field for field, changed in _candidates(config) if changed is None]


def _candidates(config: Config) -> Iterator[tuple[str, dict[str, Any] | None]]:
    model, fields = architecture_of(config).declared(config)
    rope = parameters(fields, scaled=True) if _flat(config) else {}
    for name, field in fields.read.items():
        if name not in _ROTARY and name not in rope:
            others = [_with_field(config, field, value) for value in _others(field)]
            if others:
                yield name, _first(model, config, others)
    for key, value in rope.items():
        others = [_with_rotary(config, other) for other in _other_rotations(rope, key, value)]
        if others:
            yield f"rope.{key}", _first(model, config, others)


def _flat(config: Config) -> bool:
    """Whether there is one rotary dictionary for all layers."""
    found = [config[name] for name in _ROTARY if isinstance(config.get(name), Mapping)]
    return bool(found) and not any(isinstance(value, Mapping) for rope in found for value in rope.values())


def _first(model: Model, config: Config, others: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of `others` that the oracle accepts, and that `model`'s weights fit: some may be left aside."""
    shapes = model.shapes()
    for changed in others:
        try:
            other, _ = architecture_of(changed).declared(changed)
        except BadInput:
            continue
        if other.shapes().items() <= shapes.items():
            return changed
    return None


def _with_field(config: Config, field: Field, value: object) -> dict[str, Any]:
    return {key: other for key, other in config.items() if key not in field.names} | {field.names[0]: value}


def _others(field: Field) -> list[Any]:
    """What an engine may take in place of `field`: its default first."""
    value, default = field.value, field.default
    found: list[Any] = [] if default is None or default == value else [default]
    if field.kind == "flag":
        return [not value]
    if field.kind == "choice":
        same = ACTIVATIONS.get(str(value))
        kinds = [word for word in field.among if word != value and (same is None or ACTIVATIONS.get(word) is not same)]
        return [*found, *(word for word in ("gelu", "silu") if word in kinds), *kinds]
    if field.kind in ("integer", "natural") and isinstance(value, int):
        return [*found, *(other for other in (value - 1, value + 1, 2 * value) if other > 0)]
    if field.kind == "number" and isinstance(value, float):
        return [*found, value * 10 if value < 1e-3 else value * 0.5]
    if field.kind == "limits" and isinstance(value, tuple):
        return [*found, [value[0] * 0.5, value[1] * 0.5]]
    if field.kind == "layers" and value:
        return [[]]
    if field.kind == "words" and isinstance(value, list):
        return [None, [*value[1:], value[0]]]
    return found


def _other_rotations(rope: Mapping[str, Any], key: str, value: object) -> list[dict[str, Any]]:
    """The rotary dictionary of an engine that ignores `key`."""
    if key == "rope_type":
        plain = {name: rope[name] for name in _SPELT if name in rope}
        return [] if value == "default" else [{"rope_type": "default", **plain}]
    if isinstance(value, bool):
        return [{**rope, key: not value}]
    if not isinstance(value, int | float):
        return []
    if key == "rope_theta" and value != 10000.0:
        return [{**rope, key: 10000.0}]
    if key == "partial_rotary_factor" and value != 1.0:
        return [{**rope, key: 1.0}]
    return [{**rope, key: max(1, value // 2) if isinstance(value, int) else value * 0.5}]


def _with_rotary(config: Config, rope: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the rotary dictionary `rope`, in every spelling that it has."""
    changed = dict(config)
    if isinstance(config.get("rope_parameters"), Mapping):
        changed["rope_parameters"] = dict(rope)
    if isinstance(config.get("rope_scaling"), Mapping):
        scaling = {key: value for key, value in rope.items() if key not in _SPELT}
        changed["rope_scaling"] = scaling if rope.get("rope_type") != "default" else None
    return changed | {key: rope[key] for key in _SPELT if key in config and key in rope}


@cache
def faults() -> tuple[Fault, ...]:
    """One fault a field that any embedded model can be loaded without."""
    architectures: dict[str, set[str]] = {}
    for name in embedded.NAMES:
        config = embedded.config(name)
        if config["model_type"] in supported():
            for field in ignoring(config):
                architectures.setdefault(field, set()).add(str(config["model_type"]))
    return tuple(
        Fault(
            f"{PREFIX}{field.replace('.', '_')}",
            f"{HERE}.configured:ignored",
            f"the engine ignores {field.replace('rope.', 'the rotary ')} of config.json",
            group=GROUP,
            architectures=frozenset(known),
            engines=frozenset({"transformers"}),
            wants=frozenset({"modules", "config"}),
            params={"field": field},
        )
        for field, known in architectures.items()
    )
