"""The oracle over weights larger than memory: layer by layer, all prompts at once. Pure but for its state's files.

The layers are those of the oracle in memory, given the same rows one by one, so that the arithmetic is the same; what
differs is the order: each layer is read once a pass and sees every prompt before it is forgotten. `steps` passes choose
the tokens through a cache that is kept on disk, and one more is the full pass over what was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual import digest
from genqual.cases import Json
from genqual.conformance.oracle.core import F64, I64, Cache, CausalOracle, margins_of
from genqual.conformance.oracle.registry import oracle_for, source_sha256
from genqual.conformance.oracle.streamed_state import Place, StreamState
from genqual.conformance.oracle.streamed_weights import BLOCK, Window
from genqual.errors import BadInput


@dataclass(frozen=True, slots=True)
class Progress:
    """So far: passes, layers of this pass, weights that were read by this process."""

    turn: int
    turns: int
    layer: int
    layers: int
    read: int


def stream_key(config: Mapping[str, Json], weights_sha256: str, prompts: Sequence[Sequence[int]], steps: int) -> str:
    """Of what a state on disk is: anything that would change a number of it changes the key."""
    rows = [[int(i) for i in row] for row in prompts]
    source = source_sha256(str(config.get("model_type")))
    of: list[Any] = [config, weights_sha256, rows, steps, source, np.__version__]
    return digest.of_text(json.dumps(of, sort_keys=True))


class StreamedOracle:
    """An `Oracle` of fixed `prompts` and `steps`: `run` computes, then `greedy` and `logits` say what was found.

    Memory: one layer in float64, the state of one layer (keys and values), and the logits of one prompt.
    """

    independent = CausalOracle.independent

    def __init__(
        self,
        config: Mapping[str, Json],
        weights: Mapping[str, NDArray[Any]],
        prompts: Sequence[Sequence[int]],
        steps: int,
        state: StreamState,
        *,
        block: int = BLOCK,
    ) -> None:
        """`weights` are lazy (`models.weights.lazily`). Raises BadInput as `oracle_for` does, before any is read."""
        oracle = oracle_for(config, weights, keep=False)
        if not isinstance(oracle, CausalOracle):
            raise BadInput(f"model_type {config.get('model_type')!r}: this oracle has no layers to stream")
        self._oracle = oracle
        self._window = Window(oracle.weights, tables=oracle.tables, block=block)
        self._oracle.weights = self._window
        self._prompts, self._steps, self._state = [oracle.checked(row) for row in prompts], steps, state
        self._found: Place | None = None
        self.name, self.architecture = type(oracle).__name__, oracle.architecture
        self.layers, self.vocabulary = oracle.layers, oracle.vocabulary

    @property
    def turns(self) -> int:
        """Passes over all layers: one a step, and the full pass."""
        return self._steps + 1

    @property
    def read(self) -> int:
        """Weights that this process has read, each time counted."""
        return self._window.read

    def run(self, progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Go on where the state was left, to the end. Raises BadInput on a damaged state and on weights cut short."""
        place = self._state.place(len(self._prompts))
        while not (place.turn == self._steps and place.layer == self.layers):
            place = self._next_tokens(place) if place.layer == self.layers else self._next_layer(place)
            self._state.keep(place)
            progress(Progress(place.turn, self.turns, place.layer, self.layers, self.read))
        self._found = place

    def greedy(self, prompt: Sequence[int] | I64, steps: int) -> I64:
        """The tokens (steps,) that were chosen after one of the prompts."""
        given = [int(i) for i in prompt]
        for row, known in enumerate(self._prompts):
            if known.tolist() == given and steps == self._steps:
                chosen: I64 = self._done().tokens[row]
                return chosen
        raise BadInput(f"{len(given)} tokens, {steps} steps: the streamed oracle knows only what it was made for")

    def traced(self, ids: Sequence[int] | I64) -> tuple[F64, F64 | None]:
        """`logits`, and the routers' margins (tokens, layers) on the same row; None without routers."""
        logits, done = self.logits(ids), self._done()
        rows = [row.tolist() for row in self._entering(self._steps, done.tokens)]
        return logits, done.margins[rows.index([int(i) for i in ids])] if done.margins else None

    def logits(self, ids: Sequence[int] | I64) -> F64:
        """Logits (tokens, vocabulary) of one of the prompts with what was chosen after it, but the last token."""
        given, done = [int(i) for i in ids], self._done()
        for row in range(len(self._prompts)):
            if self._entering(self._steps, done.tokens)[row].tolist() == given:
                logits: F64 = self._oracle.head(done.states[row])
                self._window.release()
                return logits
        raise BadInput(f"{len(given)} tokens: the streamed oracle knows only the rows that it was made for")

    def _done(self) -> Place:
        if self._found is None:
            raise RuntimeError("run() comes first")
        return self._found

    def _entering(self, turn: int, tokens: I64) -> list[I64]:
        """The ids that go into pass `turn`, a row each: a prompt, the last token, at the end the whole row."""
        if turn == 0:
            return self._prompts
        if turn < self._steps:
            return [chosen[turn - 1 : turn] for chosen in tokens]
        return [np.concatenate([row, tokens[i, :-1]]) for i, row in enumerate(self._prompts)]

    def _next_layer(self, place: Place) -> Place:
        states: Sequence[F64] = place.states
        if place.layer == 0:
            entering = self._entering(place.turn, place.tokens)
            firsts = self._lengths(place.turn)
            states = [self._oracle.embed(ids, first) for ids, first in zip(entering, firsts, strict=True)]
        caches = self._caches(place.turn, place.layer)
        after = tuple(self._oracle.layer(place.layer, x, cache) for x, cache in zip(states, caches, strict=True))
        self._window.release()
        if place.turn < self._steps - 1:  # neither the last choice nor the full pass is decoded from
            self._state.keep_layer_states(place.layer, place.turn, [cache.layer(place.layer) for cache in caches])
        margins = self._margins(place, caches, after) if place.turn == self._steps else ()
        return Place(place.turn, place.layer + 1, place.tokens, after, margins)

    def _margins(self, place: Place, caches: Sequence[Cache], after: Sequence[F64]) -> tuple[F64, ...]:
        """What routers wrote down in the full pass, this layer's beside those before; nothing without routers."""
        new = [margins_of(cache, self.layers, len(x)) for cache, x in zip(caches, after, strict=True)]
        if not place.margins:
            return tuple(margins for margins in new if margins is not None)
        return tuple(
            old if margins is None else np.minimum(old, margins)
            for old, margins in zip(place.margins, new, strict=True)
        )

    def _next_tokens(self, place: Place) -> Place:
        # All rows at once, so that the head is read once; the full pass says whether a choice was right.
        last = np.concatenate([states[-1:] for states in place.states])
        chosen = self._oracle.head(last).argmax(axis=-1)
        self._window.release()
        return Place(place.turn + 1, 0, np.concatenate([place.tokens, chosen[:, None]], axis=1), ())

    def _lengths(self, turn: int) -> list[int]:
        """Tokens of each row that the layers have seen before pass `turn`; the full pass begins anew."""
        return [len(row) + turn - 1 if 0 < turn < self._steps else 0 for row in self._prompts]

    def _caches(self, turn: int, layer: int) -> list[Cache]:
        caches, lengths = [self._oracle.cache() for _ in self._prompts], self._lengths(turn)
        if any(lengths):
            for cache, length, kept in zip(
                caches, lengths, self._state.layer_states(layer, turn - 1, lengths), strict=True
            ):
                cache.put(layer, kept)
                cache.length = length
        return caches
