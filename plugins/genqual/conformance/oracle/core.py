"""What every oracle shares: checked weights, state of layers, the causal model, greedy choice. NumPy float64 only."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genqual.errors import BadInput

F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

MARGINS: Final = "router_margins"
"""The note under which a mixture of experts writes down how near each token's choice was to another, (tokens,)."""

# Buffers that older checkpoints store beside the weights, and that loaders compute anew.
BUFFERS: Final = (r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)", r"(.*\.)?(attn|attention)\.(masked_)?bias")


class Weights:
    """Parameters by their Hugging Face names, checked against `shapes`, given out as float64.

    Both "model.layers.0..." and the same without `prefix` (a checkpoint of the base model) are read. `ignored` are
    regular expressions of stored names that loaders leave aside; those of BUFFERS always are. With `keep` a float64
    copy of each parameter stays; without it, each is converted at every use, so that `arrays` may be a lazy mapping
    over a checkpoint larger than memory.
    Raises BadInput on a missing parameter, and on one the oracle would not use: it would judge another model.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        shapes: Mapping[str, Shape],
        *,
        prefix: str,
        keep: bool,
        ignored: Sequence[str] = (),
    ) -> None:
        self._arrays, self._shapes, self._keep = arrays, dict(shapes), keep
        self._kept: dict[str, F64] = {}
        present = set(arrays)
        self._names = {n: n if n in present else n.removeprefix(prefix) for n in self._shapes}
        missing = sorted(n for n, stored in self._names.items() if stored not in present)
        left = present - set(self._names.values())
        skipped = re.compile("|".join(f"(?:{pattern})" for pattern in (*BUFFERS, *ignored)))
        unused = sorted(name for name in left if not skipped.fullmatch(name))
        if missing or unused:
            lists = {"missing": missing, "not used": unused}
            said = ", ".join(f"{kind} {_few(names)}" for kind, names in lists.items() if names)
            raise BadInput(
                f"weights do not fit the configuration: {said}; give the config.json that belongs to these weights, or "
                f"a whole checkpoint without others"
            )

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __getitem__(self, name: str) -> F64:
        if name in self._kept:
            return self._kept[name]
        array = np.asarray(self._arrays[self._names[name]], dtype=np.float64)
        if array.shape != self._shapes[name]:
            raise BadInput(f"{name} has shape {array.shape}, the configuration wants {self._shapes[name]}")
        if self._keep:
            self._kept[name] = array
        return array

    def matrix(self, name: str) -> F64:
        """The weight of a linear layer, of which only products are wanted: `x @ weight.T`, or `x @ weight`."""
        return self[name]


class LayerState:
    """Named arrays that one layer keeps of one sequence.

    Arrays that `extend` made grow by a token along axis 1 (keys, values, latents); those that `replace` set have a
    fixed size (a window of a convolution, the matrix of a recurrence).
    """

    def __init__(self) -> None:
        self.arrays: dict[str, F64] = {}
        self.grows: set[str] = set()

    def get(self, name: str) -> F64 | None:
        """The array `name`, None before the first token."""
        return self.arrays.get(name)

    def extend(self, name: str, new: F64) -> F64:
        """Append `new` (any, tokens, width) along axis 1; gives back the whole."""
        old = self.arrays.get(name)
        whole = new if old is None else np.concatenate([old, new], axis=1)
        self.arrays[name] = whole
        self.grows.add(name)
        return whole

    def replace(self, name: str, new: F64) -> None:
        """Keep `new` in place of what was kept under `name`."""
        self.arrays[name] = new


class Cache:
    """What the layers keep of one sequence, and how many tokens every layer has seen."""

    def __init__(self) -> None:
        self._layers: dict[int, LayerState] = {}
        self.length = 0  # the caller advances it, after the last layer
        self.notes: dict[tuple[int, str], list[F64]] = {}
        """By (layer, name): what a part wrote down of each pass, as a router its margins (tokens,)."""

    def layer(self, index: int) -> LayerState:
        """The state of layer `index`."""
        return self._layers.setdefault(index, LayerState())

    def put(self, index: int, state: LayerState) -> None:
        """Make `state` that of layer `index`."""
        self._layers[index] = state

    def note(self, index: int, name: str, values: F64) -> None:
        """Write `values` (tokens, ...) of this pass down."""
        self.notes.setdefault((index, name), []).append(values)


@dataclass(frozen=True, slots=True)
class At:
    """Where a part is computed: over which weights, in which layer, with which state, from which position on."""

    weights: Weights
    cache: Cache
    index: int = 0

    @property
    def state(self) -> LayerState:
        """This layer's state."""
        return self.cache.layer(self.index)

    @property
    def first(self) -> int:
        """Position of the first row of `x`."""
        return self.cache.length

    def note(self, name: str, values: F64) -> None:
        """Write `values` (tokens, ...) of this pass and layer down, see `Cache.notes`."""
        self.cache.note(self.index, name, values)


class Part(ABC):
    """A part of a layer that holds weights: says their shapes, and computes.

    Subclasses are frozen dataclasses; they hold whole weight names and sizes, never a configuration.
    """

    @abstractmethod
    def shapes(self) -> dict[str, Shape]:
        """Each weight's name in the checkpoint, and its shape there."""

    @abstractmethod
    def __call__(self, x: F64, at: At) -> F64:
        """`x` (tokens, in) -> (tokens, out), float64."""

    def active(self) -> int:
        """Parameters that one token's pass reads: all, but in a mixture of experts."""
        return sum(int(np.prod(shape)) for shape in self.shapes().values())

    def routed(self) -> tuple[int, int, int] | None:
        """(experts, those that a token reads, weights of one), of a mixture of experts; None of any other part."""
        return None

    def state_elements(self, length: int) -> int:
        """Elements that the part keeps of a sequence of `length` tokens."""
        del length
        return 0

    def ends(self) -> tuple[str, str] | None:
        """Module names of its first linear (of attention: the one that makes keys) and of its last; None without."""
        return None

    @property
    def attention_window(self) -> int | None:
        """Tokens back that the part sees, itself included; None where there is no such limit."""
        return None


class CausalOracle(ABC):
    """A decoder-only model in float64. Subclasses give the embedding, a layer and the head."""

    independent: ClassVar[bool] = True  # of torch and transformers; verdicts repeat it
    architecture: str
    weights: Weights
    tables: tuple[str, ...] = ()
    """Names of the (vocabulary, hidden) weights, which a streamed oracle reads in blocks."""

    def __init__(self, layers: int, vocabulary: int) -> None:
        self.layers, self.vocabulary = layers, vocabulary

    def logits(self, ids: Sequence[int] | I64) -> F64:
        """Logits (tokens, vocabulary) after each of `ids` (tokens,), teacher forced in one pass.

        Raises BadInput when `ids` is empty, not one-dimensional or outside the vocabulary, or longer than the
        model's positions.
        """
        return self.head(self.states(self.checked(ids), self.cache()))

    def last_logits(self, ids: Sequence[int] | I64, count: int) -> F64:
        """The last `count` rows of `logits`, (count, vocabulary); of a long text the head would cost most of a pass."""
        return self.head(self.states(self.checked(ids), self.cache())[-count:])

    def traced(self, ids: Sequence[int] | I64) -> tuple[F64, F64 | None]:
        """`logits`, and the routers' margins (tokens, layers) of the same pass: None without routers.

        Relative, see `experts.Mixture`; infinite in a layer without a router.
        """
        checked, cache = self.checked(ids), self.cache()
        return self.head(self.states(checked, cache)), margins_of(cache, self.layers, len(checked))

    def router_margins(self, ids: Sequence[int] | I64) -> F64 | None:
        """The margins of `traced` alone."""
        checked, cache = self.checked(ids), self.cache()
        self.states(checked, cache)
        return margins_of(cache, self.layers, len(checked))

    def greedy(self, prompt: Sequence[int] | I64, steps: int) -> I64:
        """The `steps` tokens (steps,) that follow `prompt`, by the cache; the lowest id wins a tie."""
        ids, cache, chosen = self.checked(prompt), self.cache(), np.zeros(steps, dtype=np.int64)
        for step in range(steps):
            chosen[step] = self.head(self.states(ids, cache)[-1:])[0].argmax()
            ids = chosen[step : step + 1]
        return chosen

    def cache(self) -> Cache:
        """An empty cache. A method of its own, so that a test can put a faulty one in its place."""
        return Cache()

    @abstractmethod
    def embed(self, ids: I64, first: int = 0) -> F64:
        """What enters layer 0, (tokens, hidden); `first` is the position of the first id."""

    @abstractmethod
    def layer(self, index: int, x: F64, cache: Cache) -> F64:
        """`x` (tokens, hidden) through layer `index`, whose state in `cache` then holds these tokens too."""

    @abstractmethod
    def head(self, x: F64) -> F64:
        """Logits (tokens, vocabulary) of `x`, the states after the last layer (tokens, hidden)."""

    def states(self, ids: I64, cache: Cache) -> F64:
        """Hidden states (tokens, hidden) after the last layer; `cache` then holds `ids` too."""
        x = self.embed(ids, cache.length)
        for index in range(self.layers):
            x = self.layer(index, x, cache)
        cache.length += len(ids)
        return x

    def checked(self, ids: Sequence[int] | I64) -> I64:
        """`ids` as a row of int64. Raises BadInput when it is none, or outside the vocabulary."""
        given = np.asarray(ids)
        if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iu":
            raise BadInput(f"token ids of shape {given.shape} and type {given.dtype}: a row of integers is wanted")
        if given.min() < 0 or given.max() >= self.vocabulary:
            raise BadInput(f"token ids {given.min()} to {given.max()}: the vocabulary is 0 to {self.vocabulary - 1}")
        return given.astype(np.int64)


def margins_of(cache: Cache, layers: int, tokens: int) -> F64 | None:
    """Margins (tokens, layers) that routers wrote down in `cache`, infinite in a layer without; None without any."""
    margins = np.full((tokens, layers), np.inf)
    for (index, name), values in cache.notes.items():
        if name == MARGINS:
            margins[:, index] = np.concatenate(values)
    return margins if any(name == MARGINS for _, name in cache.notes) else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
