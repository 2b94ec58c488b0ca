"""Faults of a model that was made by another configuration than its checkpoint's. In ranks only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

from genqual.cases import Json
from genqual.conformance.oracle.registry import architecture_of
from genqual.errors import BadInput
from genqual.faults.ignored_fields import ignoring
from genqual.faults.injectors.places import Undo, changed, replaced
from genqual.models import weights
from genqual.models.build import dtype_option


def ignored(engine: Any, rank: int, *, field: str) -> Undo:
    """The engine reads the checkpoint's config.json as if `field` were not in it."""
    config = weights.config(engine.request.model)
    others = ignoring(config)
    if field not in others:
        raise BadInput(f"field {field!r}: {engine.request.model.name} has none that its weights can be loaded without")
    return _made_by(engine, others[field])


def changed_fields(engine: Any, rank: int, *, fields: dict[str, Json]) -> Undo:
    """The engine takes `fields` of the configuration for other values."""
    config = weights.config(engine.request.model)
    _, known = architecture_of(config).declared(config)
    unknown = sorted(fields.keys() - {name for field in known.read.values() for name in field.names})
    if unknown:
        raise BadInput(f"fields {', '.join(unknown)}: the architecture of {engine.request.model.name} has none")
    return _made_by(engine, {**config, **fields})


def _made_by(engine: Any, config: Mapping[str, Any]) -> Undo:
    """In place of the engine's model one that `config` describes, with the same weights: not a byte is copied."""
    right, device = engine.model, getattr(engine, "_torch_device", None)
    if device is None or not hasattr(right, "config"):
        raise BadInput(f"{type(engine).__name__} makes no model of transformers by a config: no place for this fault")
    described = {key: value for key, value in config.items() if key != "model_type"}
    attention = {"attn_implementation": right.config._attn_implementation}
    # Buffers are real: rotary frequencies follow from the configuration, and are no weights.
    with init_empty_weights(include_buffers=False):
        made = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **described), **dtype_option(right.dtype), **attention
        )
    try:
        made.load_state_dict(right.state_dict(), strict=False, assign=True)
    except RuntimeError as error:
        raise BadInput(f"the weights do not fit this configuration: {error}") from error
    made.tie_weights()
    left = [name for name, parameter in made.named_parameters() if parameter.is_meta]
    if left:
        raise BadInput(f"the checkpoint has no {', '.join(left[:3])}: an engine that reads it so cannot load it")
    made.to(device)
    made.eval().requires_grad_(False)
    made.generation_config = right.generation_config
    undo = replaced(engine, "model", made)
    changed(engine)

    def take_back() -> None:
        undo()
        changed(engine)

    return take_back
