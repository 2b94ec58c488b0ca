"""The oracle over weights larger than memory: layer by layer, all prompts at once. Pure but for its state's files.

The layers are those of the oracle in memory, given the same rows, so that the arithmetic is the same; what differs is
the order: each weight is read once a pass and multiplied with every row before it is forgotten. `steps` passes choose
the tokens through a cache that is kept on disk, with products in float32, which cost a fraction of float64's. One more
is the full pass in float64 over what was chosen. It is what is kept, and it proves each choice: where it prefers
another token, that row goes on from there, and the full pass is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from genqual import digest
from genqual.cases import Json
from genqual.conformance.oracle.core import F64, I64, Cache, CausalOracle, margins_of
from genqual.conformance.oracle.registry import oracle_for, source_sha256
from genqual.conformance.oracle.streamed_state import Place, StreamState
from genqual.conformance.oracle.streamed_weights import BLOCK, Single, Window
from genqual.errors import BadInput

TIE: Final = 1e-9
"""Logits that are nearer are a tie, where greedy is not defined: no pass proves the other one wrong."""

_CHECKED: Final = 1 << 25  # logits that are held at once where choices are proved: 256 MB


@dataclass(frozen=True, slots=True)
class Progress:
    """So far: passes, layers of this pass, weights that were read by this process.

    After a choice that was wrong `turn` begins again, with as many `turns` as are left.
    """

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

    Memory: blocks of weights, the state of one layer (keys and values), and the logits of one prompt. `corrected`
    counts the choices of float32 that the full pass did not share.
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
        single: Single = nullcontext,
    ) -> None:
        """`weights` are lazy (`models.weights.lazily`), `single` is `streamed_weights.Single`.

        Raises BadInput as `oracle_for` does, before any is read.
        """
        oracle = oracle_for(config, weights, keep=False)
        if not isinstance(oracle, CausalOracle):
            raise BadInput(f"model_type {config.get('model_type')!r}: this oracle has no layers to stream")
        self._oracle = oracle
        self._window = Window(oracle.weights, tables=oracle.tables, block=block, single=single)
        self._oracle.weights = self._window
        self._prompts, self._steps, self._state = [oracle.checked(row) for row in prompts], steps, state
        self._found: Place | None = None
        self.name, self.architecture = type(oracle).__name__, oracle.architecture
        self.layers, self.vocabulary = oracle.layers, oracle.vocabulary
        self.corrected = 0

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
        place = self._state.place(len(self._prompts), self._steps)
        while True:
            if place.layer < self.layers:
                place = self._next_layer(place)
            elif place.turn < self._choices(place):
                place = self._next_tokens(place)
            elif (corrected := self._corrected(place)) is None:
                break
            else:
                place = corrected
            self._state.keep(place)
            progress(Progress(place.turn, self._choices(place) + 1, place.layer, self.layers, self.read))
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
        rows = [row.tolist() for row in self._whole(done)]
        return logits, done.margins[rows.index([int(i) for i in ids])] if done.margins else None

    def logits(self, ids: Sequence[int] | I64) -> F64:
        """Logits (tokens, vocabulary) of one of the prompts with what was chosen after it, but the last token."""
        given, done = [int(i) for i in ids], self._done()
        for row in range(len(self._prompts)):
            if self._whole(done)[row].tolist() == given:
                return self._exact_head(done.states[row])
        raise BadInput(f"{len(given)} tokens: the streamed oracle knows only the rows that it was made for")

    def _done(self) -> Place:
        if self._found is None:
            raise RuntimeError("run() comes first")
        return self._found

    def _choices(self, place: Place) -> int:
        """Passes that choose a token, before the full pass."""
        return self._steps - min(place.proven)

    def _whole(self, place: Place) -> list[I64]:
        """The ids of the full pass, a row each."""
        return [np.concatenate([row, place.tokens[i, :-1]]) for i, row in enumerate(self._prompts)]

    def _entering(self, place: Place) -> list[I64]:
        """The ids that go into this pass, a row each: what is known, then the last token, at the end the whole row.

        None of a row that has all of its tokens.
        """
        if place.turn == self._choices(place):
            return self._whole(place)
        rows = []
        for prompt, chosen, proven in zip(self._prompts, place.tokens, place.proven, strict=True):
            have = proven + place.turn
            new = np.concatenate([prompt, chosen[:proven]]) if place.turn == 0 else chosen[have - 1 : have]
            rows.append(new if have < self._steps else new[:0])
        return rows

    def _lengths(self, place: Place, turn: int) -> list[int]:
        """Tokens of each row that the layers have seen before pass `turn`; the full pass begins anew."""
        if not 0 < turn < self._choices(place):
            return [0] * len(self._prompts)
        known = zip(self._prompts, place.proven, strict=True)
        return [len(row) + proven + turn - 1 if proven + turn < self._steps else 0 for row, proven in known]

    def _next_layer(self, place: Place) -> Place:
        entering, exact = self._entering(place), place.turn == self._choices(place)
        here, caches = [row for row, ids in enumerate(entering) if len(ids)], self._caches(place)
        states: dict[int, F64] = {row: place.states[row] for row in here} if place.layer else {}
        if place.layer == 0:
            firsts = self._lengths(place, place.turn)
            states = {row: self._oracle.embed(entering[row], firsts[row]) for row in here}
        self._window.narrow = not exact
        calls = [partial(self._oracle.layer, place.layer, states[row], caches[row]) for row in here]
        found = dict(zip(here, self._window.side_by_side(calls), strict=True))
        self._window.release()
        after = tuple(found.get(row, np.zeros((0, 1))) for row in range(len(entering)))
        if place.turn < self._choices(place) - 1:  # neither the last choice nor the full pass is decoded from
            self._state.keep_layer_states(place.layer, place.turn, [cache.layer(place.layer) for cache in caches])
        margins = self._margins(place, caches, after) if exact else ()
        return replace(place, layer=place.layer + 1, states=after, margins=margins)

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
        here = [row for row, states in enumerate(place.states) if len(states)]
        self._window.narrow = True
        chosen = self._oracle.head(np.concatenate([place.states[row][-1:] for row in here])).argmax(axis=-1)
        self._window.release()
        tokens = place.tokens.copy()
        for row, token in zip(here, chosen, strict=True):
            tokens[row, place.proven[row] + place.turn] = token
        return Place(place.turn + 1, 0, tokens, (), proven=place.proven)

    def _corrected(self, place: Place) -> Place | None:
        """Where to go on if the full pass, which is at its end, chooses other tokens; None where it does not."""
        tokens, proven = place.tokens.copy(), [self._steps] * len(place.tokens)
        wrong = 0
        at_once = max(1, _CHECKED // (self.vocabulary * self._steps))
        for first in range(0, len(proven), at_once):
            rows = range(first, min(first + at_once, len(proven)))
            logits = self._exact_head(np.concatenate([place.states[row][-self._steps :] for row in rows]))
            for row, found in zip(rows, np.split(logits, len(rows)), strict=True):
                step = _first_wrong(found, tokens[row])
                if step is not None:
                    tokens[row, step], proven[row], wrong = found[step].argmax(), step + 1, wrong + 1
        if not wrong:
            return None
        self.corrected += wrong
        return Place(0, 0, tokens, (), proven=tuple(proven))

    def _exact_head(self, x: F64) -> F64:
        self._window.narrow = False
        logits = self._oracle.head(x)
        self._window.release()
        return logits

    def _caches(self, place: Place) -> list[Cache]:
        caches, lengths = [self._oracle.cache() for _ in self._prompts], self._lengths(place, place.turn)
        if any(lengths):
            for cache, length, kept in zip(
                caches, lengths, self._state.layer_states(place.layer, place.turn - 1, lengths), strict=True
            ):
                cache.put(place.layer, kept)
                cache.length = length
        return caches


def _first_wrong(logits: F64, tokens: I64) -> int | None:
    """The first step whose token (steps,) is surely not the best of its logits (steps, vocabulary); None without."""
    gaps = logits.max(axis=-1) - np.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return int((gaps > TIE).argmax()) if (gaps > TIE).any() else None
