"""Where the parts of a declared model are in transformers' tree of modules, by the names of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from genqual.conformance.oracle.core import Part
from genqual.conformance.oracle.norms import Norm
from genqual.conformance.oracle.spec import Block, Model


@dataclass(frozen=True, slots=True)
class LayerModules:
    """Module names of one layer: `_in` a part's first linear (attention: the one for keys), `_out` its last.

    None where the layer has no such part: a recurrence has no keys, a mixture of experts no one first linear.
    """

    block: str
    norm_in: str | None
    attention: str | None
    attention_in: str | None
    attention_out: str | None
    norm_post: str | None
    mlp: str | None
    mlp_in: str | None
    mlp_out: str | None


@dataclass(frozen=True, slots=True)
class ModelModules:
    """Module names of a model. The head is where the model puts it: a tied one has no weight of its own name."""

    embedding: str
    layers: tuple[LayerModules, ...]
    norm: str | None


def modules_of(model: Model) -> ModelModules:
    """The names of `model`'s modules."""
    return ModelModules(
        embedding=_holder(model.embedding.name),
        layers=tuple(map(_layer, model.blocks)),
        norm=_norm(model.head.norm),
    )


def _layer(block: Block) -> LayerModules:
    attention_in, attention_out = _ends(block.mixer)
    mlp_in, mlp_out = _ends(block.mlp)
    names = [name.split(".") for part in block.parts() for name in part.shapes()]
    common = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*names, strict=False))]
    return LayerModules(
        block=".".join(common),
        norm_in=_norm(block.mixer_before or block.mixer_after),
        attention=_holder(attention_out) if attention_out else None,
        attention_in=attention_in,
        attention_out=attention_out,
        norm_post=_norm(block.mlp_before or block.mlp_after),
        mlp=_holder(mlp_out) if mlp_out else None,
        mlp_in=mlp_in,
        mlp_out=mlp_out,
    )


def _ends(part: Part | None) -> tuple[str | None, str | None]:
    return (part.ends() if part else None) or (None, None)


def _norm(norm: Norm | None) -> str | None:
    return norm.name if norm and norm.scaled else None


def _holder(name: str) -> str:
    """The module that holds the weight or the module `name`."""
    return name.rpartition(".")[0]
