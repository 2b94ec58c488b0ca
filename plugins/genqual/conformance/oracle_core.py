"""What the oracles share: checked weights, key-value cache, attention, greedy choice. Pure: NumPy float64 only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genqual.errors import BadInput

F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]

# Queries a block of attention: bounds the score matrix to (heads, 128, keys), whatever the length.
_BLOCK: Final = 128


class Weights:
    """Parameters by their Hugging Face names, checked against `shapes`, given out as float64.

    Both "model.layers.0..." and the same without `prefix` (a checkpoint of the base model) are read. `ignored` names
    buffers that carry no weight. With `keep` a float64 copy of each parameter stays; without it, each is converted at
    every use, so that `arrays` may be a lazy mapping over a checkpoint larger than memory.
    Raises BadInput on a missing parameter, and on one the oracle would not use: it would judge another model.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        shapes: Mapping[str, tuple[int, ...]],
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
        unused = sorted(n for n in present - set(self._names.values()) if not n.endswith(tuple(ignored)))
        if missing or unused:
            raise BadInput(
                f"weights do not fit the configuration: missing {_few(missing)}, not used {_few(unused)}; "
                f"give the oracle the config.json that belongs to these weights"
            )

    def __getitem__(self, name: str) -> F64:
        if name in self._kept:
            return self._kept[name]
        array = np.asarray(self._arrays[self._names[name]], dtype=np.float64)
        if array.shape != self._shapes[name]:
            raise BadInput(f"{name} has shape {array.shape}, the configuration wants {self._shapes[name]}")
        if self._keep:
            self._kept[name] = array
        return array

    def linear(self, x: F64, name: str) -> F64:
        """`x` (tokens, in) through the layer `name`: (tokens, out), with its bias where the model has one."""
        y = x @ self[f"{name}.weight"].T
        return y + self[f"{name}.bias"] if f"{name}.bias" in self._shapes else y


class KeyValues:
    """Keys and values of each layer so far, each (heads, tokens, head_dim)."""

    def __init__(self) -> None:
        self._stored: dict[int, tuple[F64, F64]] = {}
        self.length = 0  # tokens that every layer has seen; the caller advances it

    def extend(self, layer: int, keys: F64, values: F64) -> tuple[F64, F64]:
        """Append to `layer`; gives back all of its keys and values."""
        if layer in self._stored:
            old_keys, old_values = self._stored[layer]
            keys, values = np.concatenate([old_keys, keys], axis=1), np.concatenate([old_values, values], axis=1)
        self._stored[layer] = keys, values
        return keys, values


class CausalOracle(ABC):
    """A decoder-only model in float64. Subclasses give the embedding, a layer and the head."""

    architecture: ClassVar[str]
    independent: ClassVar[bool] = True  # of torch and transformers; verdicts repeat it

    def __init__(self, layers: int, vocabulary: int) -> None:
        self.layers, self.vocabulary = layers, vocabulary

    def logits(self, ids: Sequence[int] | I64) -> F64:
        """Logits (tokens, vocabulary) after each of `ids` (tokens,), teacher forced in one pass.

        Raises BadInput when `ids` is empty, not one-dimensional or outside the vocabulary.
        """
        return self._head(self._states(self._checked(ids), self.cache()))

    def greedy(self, prompt: Sequence[int] | I64, steps: int) -> I64:
        """The `steps` tokens (steps,) that follow `prompt`, by a key-value cache; the lowest id wins a tie."""
        ids, cache, chosen = self._checked(prompt), self.cache(), np.zeros(steps, dtype=np.int64)
        for step in range(steps):
            chosen[step] = self._head(self._states(ids, cache)[-1:])[0].argmax()
            ids = chosen[step : step + 1]
        return chosen

    def cache(self) -> KeyValues:
        """An empty cache. A method of its own, so that a test can put a faulty one in its place."""
        return KeyValues()

    @abstractmethod
    def _embed(self, ids: I64) -> F64: ...

    @abstractmethod
    def _layer(self, index: int, x: F64, cache: KeyValues) -> F64: ...

    @abstractmethod
    def _head(self, x: F64) -> F64: ...

    def _states(self, ids: I64, cache: KeyValues) -> F64:
        """Hidden states (tokens, hidden) after the last layer; `cache` then holds `ids` too."""
        x = self._embed(ids)
        for index in range(self.layers):
            x = self._layer(index, x, cache)
        cache.length += len(ids)
        return x

    def _checked(self, ids: Sequence[int] | I64) -> I64:
        given = np.asarray(ids)
        if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iu":
            raise BadInput(f"token ids of shape {given.shape} and type {given.dtype}: a row of integers is wanted")
        if given.min() < 0 or given.max() >= self.vocabulary:
            raise BadInput(f"token ids {given.min()} to {given.max()}: the vocabulary is 0 to {self.vocabulary - 1}")
        return given.astype(np.int64)


def attend(q: F64, k: F64, v: F64, *, first: int, slopes: F64 | None = None) -> F64:
    """Causal attention: `q` (heads, queries, d), `k`, `v` (kv_heads, keys, d) -> (queries, heads * d).

    Query i stands at position `first + i` and sees the keys up to it. `slopes` (heads,) adds ALiBi's slope x key
    position: softmax ignores what is constant in a row, so the distance to the query need not be subtracted.
    """
    heads, queries, width = q.shape
    k, v = (np.repeat(a, heads // a.shape[0], axis=0) for a in (k, v))
    positions = np.arange(k.shape[1])
    out = np.empty((heads, queries, width))
    for start in range(0, queries, _BLOCK):
        block = slice(start, min(start + _BLOCK, queries))
        scores = q[:, block] @ k.transpose(0, 2, 1) / np.sqrt(width)
        if slopes is not None:
            scores += slopes[:, None, None] * positions
        scores[:, positions > first + np.arange(block.start, block.stop)[:, None]] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, block] = scores @ v / scores.sum(axis=-1, keepdims=True)
    return out.transpose(1, 0, 2).reshape(queries, heads * width)


def integer(config: Mapping[str, object], *names: str, default: int | None = None) -> int:
    """The first of `names` that `config` sets (a key and its older spellings). Raises BadInput when none is there."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if value is not None:
            raise BadInput(f"config {name} = {value!r}: a positive integer is wanted")
    if default is None:
        raise BadInput(f"the configuration sets none of {', '.join(names)}; give the model's whole config.json")
    return default


def number(config: Mapping[str, object], name: str, default: float | None = None) -> float:
    """`config[name]` as a float. Raises BadInput when it is missing without a default, or no number."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"config {name} = {value!r}: a number is wanted")
    return float(value)


def divided(config_text: str, whole: int, parts: int) -> int:
    """`whole / parts`. Raises BadInput, naming `config_text`, when it leaves a remainder."""
    if whole % parts:
        raise BadInput(f"config {config_text}: {whole} is not a multiple of {parts}")
    return whole // parts


def check_tied(weights: Mapping[str, NDArray[Any]], embedding: str) -> None:
    """Raises BadInput when a checkpoint with tied embeddings stores a head that differs from them."""
    name = next((n for n in weights if n.endswith(embedding)), None)
    if name and "lm_head.weight" in weights and not np.array_equal(weights[name], weights["lm_head.weight"]):
        raise BadInput(
            f"tie_word_embeddings is true, yet lm_head.weight differs from {name}: loaders disagree which of the two "
            f"counts, so what is right is not defined; set tie_word_embeddings to what the checkpoint means"
        )


def _few(names: Sequence[str]) -> str:
    return "nothing" if not names else ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
