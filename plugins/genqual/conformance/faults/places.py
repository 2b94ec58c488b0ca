"""Where things are in the models that faults know, and how a change is made and taken back. In ranks only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.hooks import RemovableHandle

from genqual.errors import BadInput

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """The parts of one decoder layer, whatever its model calls them."""

    attention: Any
    attention_out: Any  # the row-parallel linear at the end of attention
    mlp_out: Any  # the row-parallel linear at the end of the MLP


@dataclass(frozen=True, slots=True)
class Places:
    """The parts of a causal language model."""

    layers: tuple[Layer, ...]
    norm: Any  # the last one, before the head
    head: Any

    def layer(self, index: int) -> Layer:
        """Layer `index`, from the end when negative. Raises BadInput."""
        if not -len(self.layers) <= index < len(self.layers):
            raise BadInput(f"layer {index}: the model has {len(self.layers)}")
        return self.layers[index]


def places(model: Any) -> Places:
    """The parts of `model`, a Llama or a BLOOM. Raises BadInput on another architecture."""
    kind = model.config.model_type
    if kind == "llama":
        layers = tuple(
            Layer(block.self_attn, block.self_attn.o_proj, block.mlp.down_proj) for block in model.model.layers
        )
        return Places(layers, model.model.norm, model.lm_head)
    if kind == "bloom":
        layers = tuple(
            Layer(block.self_attention, block.self_attention.dense, block.mlp.dense_4h_to_h)
            for block in model.transformer.h
        )
        return Places(layers, model.transformer.ln_f, model.lm_head)
    raise BadInput(f"architecture {kind!r}: faults know llama and bloom")


def changed(engine: Any) -> None:
    """Tell the engine that its model is not what it was: a compiled graph must be made anew."""
    notify = getattr(engine, "model_changed", None)
    if notify is not None:
        notify()


def hooked(engine: Any, *handles: RemovableHandle) -> Undo:
    """The undo of hooks that were just registered; both ways the engine is told."""

    def undo() -> None:
        for handle in handles:
            handle.remove()
        changed(engine)

    changed(engine)
    return undo


def nothing() -> None:
    """The undo of a fault that does not concern this rank."""
