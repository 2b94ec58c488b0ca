"""How an architecture is declared: linears, embedding, blocks, head, and what registers it.

An architecture is one file with `ARCHITECTURE = Architecture(model_type=..., build=..., source=...)`. `build(fields)`
reads the configuration through `fields.Fields` and gives back a `Model`: an `Embedding`, a `Block` a layer, a `Head`.
A block has a mixer (attention, convolution, recurrence) and an MLP (plain, gated, experts); both are `core.Part`s:
they say the shapes of their weights under whole names, and compute `part(x, at)` on (tokens, hidden) in float64. `at`
is a `core.At`: the weights, the layer's state of this sequence (`at.state.extend` for keys that grow along axis 1,
`at.state.replace` for state of fixed size, `at.state.get`), the position of the first row (`at.first`), and
`at.note(name, values)` for what is to be read afterwards (a router's margins). A part that needs nothing else than
these can be added without a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.oracle.core import F64, I64, At, Cache, CausalOracle, Part, Shape, Weights
from genqual.conformance.oracle.fields import Fields
from genqual.conformance.oracle.norms import Norm
from genqual.errors import BadInput

Stored: TypeAlias = Callable[[Mapping[str, NDArray[Any]], Mapping[str, Shape]], Mapping[str, NDArray[Any]]]
"""`stored(weights, shapes)`: the same weights by the names and shapes of a declaration, read when asked for."""


@dataclass(frozen=True)
class Embedding:
    """Rows of a table, times `multiplier`, plus learned positions, then perhaps a projection and a norm."""

    name: str
    vocabulary: int
    width: int
    multiplier: float = 1.0
    positions: str | None = None
    """Name of the table of learned positions, (`longest` + `offset`, hidden)."""
    longest: int | None = None
    offset: int = 0
    projection: Part | None = None
    norm: Norm | None = None

    def shapes(self) -> dict[str, Shape]:
        """Each weight's name and shape."""
        shapes: dict[str, Shape] = {self.name: (self.vocabulary, self.width)}
        if self.positions and self.longest:
            hidden = next(iter(self.projection.shapes().values()))[0] if self.projection else self.width
            shapes[self.positions] = (self.longest + self.offset, hidden)
        for part in (self.projection, self.norm):
            shapes |= part.shapes() if part else {}
        return shapes

    def __call__(self, ids: I64, at: At) -> F64:
        """`ids` (tokens,) -> (tokens, hidden). Raises BadInput beyond the learned positions."""
        x = at.weights[self.name][ids]
        if self.multiplier != 1.0:
            x = x * self.multiplier
        if self.projection:
            x = self.projection(x, at)
        if self.positions:
            last = at.first + len(ids)
            if self.longest is not None and last > self.longest:
                raise BadInput(f"{last} tokens: this model has {self.longest} learned positions; give a shorter text")
            x = x + at.weights[self.positions][self.offset + at.first : self.offset + last]
        return self.norm(x, at) if self.norm else x


@dataclass(frozen=True)
class Head:
    """The last norm and the product with a table: the embedding's when tied."""

    name: str
    vocabulary: int
    hidden: int
    norm: Norm | None = None
    projection: Part | None = None
    bias: str | None = None
    multiplier: float = 1.0
    divisor: float = 1.0
    cap: float | None = None
    tied: bool = False

    def shapes(self) -> dict[str, Shape]:
        """Each weight's name and shape; a tied table is the embedding's."""
        shapes: dict[str, Shape] = {} if self.tied else {self.name: (self.vocabulary, self.hidden)}
        if self.bias:
            shapes[self.bias] = (self.vocabulary,)
        for part in (self.norm, self.projection):
            shapes |= part.shapes() if part else {}
        return shapes

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) -> logits (tokens, vocabulary)."""
        if self.norm:
            x = self.norm(x, at)
        if self.projection:
            x = self.projection(x, at)
        logits: F64 = x @ at.weights[self.name].T
        if self.bias:
            logits = logits + at.weights[self.bias]
        if self.multiplier != 1.0:
            logits = logits * self.multiplier
        if self.divisor != 1.0:
            logits = logits / self.divisor
        return logits if self.cap is None else self.cap * np.tanh(logits / self.cap)


@dataclass(frozen=True)
class Block:
    """One layer: norms before and after a mixer and an MLP, each added to what entered.

    Of the norms each may be absent. `parallel`: the MLP reads what entered the layer, not what the mixer left.
    `sum_norms`: `mixer_after` and `mlp_after` norm the sum with what entered, as the first transformers did, not the
    branch alone. `residual_of_norm`: the branch is added to the normed input, not to the input (an option of BLOOM).
    """

    mixer: Part
    mlp: Part | None = None
    mixer_before: Norm | None = None
    mixer_after: Norm | None = None
    mlp_before: Norm | None = None
    mlp_after: Norm | None = None
    multiplier: float = 1.0
    parallel: bool = False
    sum_norms: bool = False
    residual_of_norm: bool = False

    def parts(self) -> list[Part]:
        """The parts that hold weights, norms first named."""
        norms = (self.mixer_before, self.mixer_after, self.mlp_before, self.mlp_after)
        return [part for part in (*norms, self.mixer, self.mlp) if part is not None]

    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, hidden) through the layer."""
        after = self._branch(x, x, self.mixer_before, self.mixer, self.mixer_after, at)
        if self.mlp is None:
            return after
        return self._branch(after, x if self.parallel else after, self.mlp_before, self.mlp, self.mlp_after, at)

    def _branch(self, onto: F64, x: F64, before: Norm | None, part: Part, after: Norm | None, at: At) -> F64:
        normed = before(x, at) if before else x
        y = part(normed, at)
        if after and not self.sum_norms:
            y = after(y, at)
        if self.multiplier != 1.0:
            y = y * self.multiplier
        y = (normed if self.residual_of_norm else onto) + y
        return after(y, at) if after and self.sum_norms else y


@dataclass(frozen=True)
class Model:
    """What `build` gives back: the whole model of one configuration."""

    embedding: Embedding
    blocks: tuple[Block, ...]
    head: Head
    ignored: tuple[str, ...] = ()
    """Regular expressions of stored names that loaders leave aside in this configuration."""
    settled_length: int | None = None
    """Up to how many tokens one pass and token by token are the same; beyond it only one pass is defined (rotary
    frequencies that follow the length of the text). None: always."""

    def shapes(self) -> dict[str, Shape]:
        """Each weight's name in the checkpoint, and its shape there."""
        shapes = self.embedding.shapes() | self.head.shapes()
        for block in self.blocks:
            for part in block.parts():
                shapes |= part.shapes()
        return shapes

    def active_parameters(self) -> int:
        """Parameters that the pass of one token reads: all layers and norms, the head, one row of the embedding."""
        parts = [part for block in self.blocks for part in block.parts()]
        table = self.head.vocabulary * self.head.hidden if self.head.tied else 0
        outside = sum(int(np.prod(shape)) for shape in self.head.shapes().values()) + table
        return sum(part.active() for part in parts) + outside + self.embedding.width

    def cache_bytes(self, length: int, element_bytes: int = 2) -> int:
        """Bytes that all layers keep of a sequence of `length` tokens, windows and fixed states as they are."""
        parts = [part for block in self.blocks for part in block.parts()]
        return element_bytes * sum(part.state_elements(length) for part in parts)

    def layer_window(self, index: int) -> int | None:
        """Tokens back that layer `index` sees, itself included; None where it sees all."""
        return self.blocks[index].mixer.attention_window


@dataclass(frozen=True)
class Architecture:
    """One architecture: its `model_type`, how it is built, what it was written from.

    `prefix` is what a checkpoint of the base model leaves away from names; `ignores` are fields that its published
    definition does not have, and which therefore change nothing, whatever a config.json says; `ignored` are regular
    expressions of stored names that loaders leave aside.
    """

    model_type: str
    build: Callable[[Fields], Model]
    source: str
    prefix: str = "model."
    ignores: tuple[str, ...] = ()
    ignored: tuple[str, ...] = field(default=())
    stored: Stored | None = None
    """Gives out under this declaration's names and shapes what a checkpoint may store in another layout."""

    def oracle(
        self, config: Mapping[str, object], weights: Mapping[str, NDArray[Any]], *, keep: bool = True
    ) -> ComposedOracle:
        """The oracle of `config` over `weights`. Raises BadInput on fields and weights that do not fit."""
        return ComposedOracle(self, config, weights, keep=keep)

    def declared(self, config: Mapping[str, object], stored: Collection[str] = ()) -> tuple[Model, Fields]:
        """The model of `config` and the fields that it read, over a checkpoint with the names `stored`.

        Raises BadInput on a field that it does not know.
        """
        fields = Fields(config, ignores=self.ignores, stored=stored)
        model = self.build(fields)
        fields.finish()
        return model, fields


class ComposedOracle(CausalOracle):
    """The oracle of an `Architecture`."""

    def __init__(
        self,
        architecture: Architecture,
        config: Mapping[str, object],
        weights: Mapping[str, NDArray[Any]],
        *,
        keep: bool = True,
    ) -> None:
        self.architecture = architecture.model_type
        self.model, self.fields = architecture.declared(config, weights)
        super().__init__(len(self.model.blocks), self.model.embedding.vocabulary)
        self.tables = (self.model.embedding.name, self.model.head.name)
        head = self.model.head
        ignored = [*architecture.ignored, *self.model.ignored]
        if head.tied:
            _check_tied(weights, self.model.embedding.name, architecture.prefix)
            ignored += [r"lm_head\.weight", r"embed_out\.weight"]
        shapes = self.model.shapes()
        if architecture.stored:
            weights = architecture.stored(weights, shapes)
        self.weights = Weights(weights, shapes, prefix=architecture.prefix, keep=keep, ignored=ignored)

    def embed(self, ids: I64, first: int = 0) -> F64:
        """What enters layer 0, (tokens, hidden)."""
        cache = Cache()
        cache.length = first
        return self.model.embedding(ids, At(self.weights, cache))

    def layer(self, index: int, x: F64, cache: Cache) -> F64:
        """`x` (tokens, hidden) through layer `index`."""
        longest = self.model.settled_length
        if longest is not None and cache.length and cache.length + len(x) > longest:
            raise BadInput(
                f"{cache.length + len(x)} tokens, token by token: beyond {longest} the rotary frequencies of this "
                f"configuration follow the length of the text, so that only one pass over all of it is defined"
            )
        return self.model.blocks[index](x, At(self.weights, cache, index))

    def head(self, x: F64) -> F64:
        """Logits (tokens, vocabulary)."""
        return self.model.head(x, At(self.weights, Cache()))

    def weight_shapes(self) -> dict[str, Shape]:
        """Each weight's name in the checkpoint, and its shape there."""
        return self.model.shapes()

    def active_parameters(self) -> int:
        """See `Model.active_parameters`."""
        return self.model.active_parameters()

    def cache_bytes(self, length: int, element_bytes: int = 2) -> int:
        """See `Model.cache_bytes`."""
        return self.model.cache_bytes(length, element_bytes)

    def layer_window(self, index: int) -> int | None:
        """See `Model.layer_window`."""
        return self.model.layer_window(index)


def _check_tied(weights: Mapping[str, NDArray[Any]], embedding: str, prefix: str) -> None:
    """Raises BadInput when a checkpoint with tied embeddings stores a head that differs from them."""
    name = embedding if embedding in weights else embedding.removeprefix(prefix)
    for head in ("lm_head.weight", "embed_out.weight"):
        if name in weights and head in weights and not np.array_equal(weights[name], weights[head]):
            raise BadInput(
                f"tie_word_embeddings is true, yet {head} differs from {name}: loaders disagree which of the two "
                f"counts, so what is right is not defined; set tie_word_embeddings to what the checkpoint means"
            )
