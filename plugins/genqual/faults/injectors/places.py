"""Where things are in the models that faults know, and how a change is made and taken back. In ranks only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils.hooks import RemovableHandle

from genqual.conformance.oracle.attention import Attention
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.modules import LayerModules, modules_of
from genqual.conformance.oracle.registry import architecture_of
from genqual.conformance.oracle.spec import Model
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

    def __getattribute__(self, name: str) -> Any:
        """Raises BadInput on a part that this layer does not have: a mixture of experts has no one `mlp_in`."""
        value = object.__getattribute__(self, name)
        if value is None and name in Layer.__dataclass_fields__:
            raise BadInput(f"part {name!r}: this layer has none; put this fault into another layer or model")
        return value


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


_ACTIVATIONS: Final = ("act_fn", "act", "gelu_impl", "activation_fn", "activation")


def places(model: Any) -> Places:
    """The parts of `model`, by the declaration of its architecture.

    Raises BadInput on an architecture that has no such parts, and on what is not a torch module tree with a config.
    """
    if getattr(getattr(model, "config", None), "model_type", None) is None or not hasattr(model, "get_submodule"):
        raise BadInput(f"{type(model).__name__} is no torch module tree with a config: no place for this fault")
    names = modules_of(_declared(model))
    return Places(
        embedding=_module(model, names.embedding),
        layers=tuple(_layer(model, layer) for layer in names.layers),
        norm=_module(model, names.norm),
        head=model.get_output_embeddings(),
    )


def _layer(model: Any, names: LayerModules) -> Layer:
    block, mlp = _module(model, names.block), _module(model, names.mlp)
    holders = () if mlp is None else (mlp, block)
    found = [getattr(owner, name, None) for owner in holders for name in _ACTIVATIONS]
    return Layer(
        block=block,
        norm_in=_module(model, names.norm_in),
        attention=_module(model, names.attention),
        attention_in=_module(model, names.attention_in),
        attention_out=_module(model, names.attention_out),
        norm_post=_module(model, names.norm_post),
        mlp_in=_module(model, names.mlp_in),
        activation=next((each for each in found if callable(each)), None),
        mlp_out=_module(model, names.mlp_out),
    )


def _module(model: Any, name: str | None) -> Any:
    if name is None:
        return None
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise BadInput(f"{name}: this engine's model has no such module ({error})") from error


def _declared(model: Any) -> Model:
    config = model.config.to_dict()
    return architecture_of(config).build(Fields(config))


def base_of(model: Any) -> Any:
    """The model below the head: where ids, positions, mask and cache go in."""
    places(model)
    return model.base_model


def width_of_head(model: Any) -> int:
    """Channels of one attention head."""
    mixer = _declared(model).blocks[0].mixer
    if not isinstance(mixer, Attention):
        raise BadInput(f"layer 0 of {model.config.model_type!r} is no attention with heads of one width")
    return mixer.width


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
