"""Where the parts of a declared model are in transformers' tree of modules, by the names of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from genqual.conformance.oracle.core import Part
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.spec import Block, Model
from genqual.errors import BadInput


@dataclass(frozen=True, slots=True)
class LayerModules:
    """Module names of one layer: `_in` a part's first linear (attention: the one for keys), `_out` its last."""

    block: str
    norm_in: str
    attention: str
    attention_in: str
    attention_out: str
    norm_post: str
    mlp: str
    mlp_in: str
    mlp_out: str


@dataclass(frozen=True, slots=True)
class ModelModules:
    """Module names of a model. The head is where the model puts it: a tied one has no weight of its own name."""

    embedding: str
    layers: tuple[LayerModules, ...]
    norm: str


def modules_of(model: Model) -> ModelModules:
    """The names of `model`'s modules. Raises BadInput on a layer without a norm, an attention or an MLP like these.

    Recurrent layers and mixtures of experts have no such ends: what is done to a linear of theirs is done by its name.
    """
    if model.head.norm is None:
        raise BadInput("this model has no norm before its head")
    return ModelModules(
        embedding=_module(model.embedding.name),
        layers=tuple(_layer(index, block) for index, block in enumerate(model.blocks)),
        norm=model.head.norm.name,
    )


def _layer(index: int, block: Block) -> LayerModules:
    attention_in, attention_out = _ends(index, "mixer", block.mixer)
    mlp_in, mlp_out = _ends(index, "MLP", block.mlp)
    names = [name.split(".") for part in block.parts() for name in part.shapes()]
    common = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*names, strict=False))]
    return LayerModules(
        block=".".join(common),
        norm_in=_norm(index, block.mixer_before or block.mixer_after),
        attention=_module(attention_out),
        attention_in=attention_in,
        attention_out=attention_out,
        norm_post=_norm(index, block.mlp_before or block.mlp_after),
        mlp=_module(mlp_out),
        mlp_in=mlp_in,
        mlp_out=mlp_out,
    )


def _ends(index: int, what: str, part: Part | None) -> tuple[str, str]:
    ends = None if part is None else part.ends()
    if ends is None:
        kind = "none" if part is None else type(part).__name__
        raise BadInput(f"layer {index}: its {what} ({kind}) has no first and last linear of its own")
    return ends


def _norm(index: int, norm: Norm | None) -> str:
    if norm is None:
        raise BadInput(f"layer {index} lacks a norm")
    return norm.name


def _module(name: str) -> str:
    """The module that holds the weight or the module `name`."""
    return name.rpartition(".")[0]
