"""Where things are in the models that faults know, and how a change is made and taken back. In ranks only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from genqual.errors import BadInput

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """The parts of one decoder layer, whatever its model calls them."""

    block: Any
    norm_in: Any
    attention: Any
    attention_in: Any  # the linear that makes keys (Llama), or queries, keys and values of all heads (BLOOM)
    attention_out: Any  # the row-parallel linear at the end of attention
    norm_post: Any
    mlp_in: Any  # the linear before the activation
    activation: Any
    mlp_out: Any  # the row-parallel linear at the end of the MLP


@dataclass(frozen=True, slots=True)
class Places:
    """The parts of a causal language model."""

    embedding: Any
    layers: tuple[Layer, ...]
    norm: Any  # the last one, before the head
    head: Any

    def layer(self, index: int) -> Layer:
        """Layer `index`, from the end when negative. Raises BadInput."""
        if not -len(self.layers) <= index < len(self.layers):
            raise BadInput(f"layer {index}: the model has {len(self.layers)}")
        return self.layers[index]

    def part(self, name: str, layer: int) -> Any:
        """The module called `name`: of the model, or of one layer. Raises BadInput."""
        if name in ("embedding", "norm", "head"):
            return getattr(self, name)
        if name not in Layer.__dataclass_fields__:
            raise BadInput(
                f"part {name!r}: there are embedding, norm, head and {', '.join(Layer.__dataclass_fields__)}"
            )
        return getattr(self.layer(layer), name)


def places(model: Any) -> Places:
    """The parts of `model`, a Llama or a BLOOM. Raises BadInput on another architecture, or what is no such tree."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind is None or not hasattr(model, "register_forward_hook"):
        raise BadInput(f"{type(model).__name__} is no torch module tree with a config: no place for this fault")
    if kind == "llama":
        layers = tuple(
            Layer(
                *(block, block.input_layernorm, block.self_attn, block.self_attn.k_proj, block.self_attn.o_proj),
                *(block.post_attention_layernorm, block.mlp.gate_proj, block.mlp.act_fn, block.mlp.down_proj),
            )
            for block in model.model.layers
        )
        return Places(model.model.embed_tokens, layers, model.model.norm, model.lm_head)
    if kind == "bloom":
        layers = tuple(
            Layer(
                *(block, block.input_layernorm, block.self_attention, block.self_attention.query_key_value),
                *(block.self_attention.dense, block.post_attention_layernorm, block.mlp.dense_h_to_4h),
                *(block.mlp.gelu_impl, block.mlp.dense_4h_to_h),
            )
            for block in model.transformer.h
        )
        return Places(model.transformer.word_embeddings, layers, model.transformer.ln_f, model.lm_head)
    raise BadInput(f"architecture {kind!r}: faults know llama and bloom")


def base_of(model: Any) -> Any:
    """The model below the head: where ids, positions, mask and cache go in."""
    places(model)
    return model.model if model.config.model_type == "llama" else model.transformer


def width_of_head(model: Any) -> int:
    """Channels of one attention head."""
    return int(places(model).layers[0].attention.head_dim)


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


def output(engine: Any, module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Undo:
    """Put `change` after `module`, whose output is a tensor or begins with one."""

    def hook(_module: Any, _args: Any, result: Any) -> Any:
        if isinstance(result, tuple):
            return (change(result[0]), *result[1:])
        return change(result)

    return hooked(engine, module.register_forward_hook(hook))


def first_input(engine: Any, module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Undo:
    """Put `change` before `module`, on its first argument or its hidden states."""

    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hooked(engine, module.register_forward_pre_hook(hook, with_kwargs=True))


def keywords(engine: Any, module: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Undo:
    """Put `change` before `module`, on its keyword arguments."""

    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, change(dict(kwargs))

    return hooked(engine, module.register_forward_pre_hook(hook, with_kwargs=True))


def replaced(owner: Any, name: str, value: Any) -> Undo:
    """Set an instance attribute that stands before the class's own, until undone."""
    had = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)

    def undo() -> None:
        if had:
            setattr(owner, name, before)
        else:
            delattr(owner, name)

    return undo


def all_of(*undos: Undo) -> Undo:
    """One undo of several, the last first."""

    def undo() -> None:
        for one in reversed(undos):
            one()

    return undo


def nothing() -> None:
    """The undo of a fault that does not concern this rank."""
