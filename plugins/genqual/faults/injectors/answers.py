"""Faults of what an engine is given and answers, whatever computes it: no torch, no module tree. In ranks only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.engines.base import TokenBatch

Undo = Callable[[], None]
Tokens = NDArray[np.int64]


def swapped(engine: Any, rank: int) -> Undo:
    """The first two rows of a batch get each other's answer."""
    return _answers(engine, lambda tokens: tokens[[1, 0, *range(2, len(tokens))]] if len(tokens) > 1 else tokens)


def shared(engine: Any, rank: int) -> Undo:
    """Every row gets the first row's answer."""
    return _answers(engine, lambda tokens: np.repeat(tokens[:1], len(tokens), axis=0))


def repeated(engine: Any, rank: int, *, step: int = 3) -> Undo:
    """The token of `step` is written again in the step after."""

    def change(tokens: Tokens) -> Tokens:
        tokens[:, step + 1 : step + 2] = tokens[:, step : step + 1][:, : tokens[:, step + 1 :].shape[1]]
        return tokens

    return _answers(engine, change)


def late(engine: Any, rank: int) -> Undo:
    """Every token is written a step late: the first stands twice."""
    return _answers(engine, lambda tokens: np.concatenate([tokens[:, :1], tokens[:, :-1]], axis=1))


def changed(engine: Any, rank: int, *, step: int = 5) -> Undo:
    """The token of `step` is the one with the next lower id."""

    def change(tokens: Tokens) -> Tokens:
        tokens[:, step : step + 1] = np.maximum(tokens[:, step : step + 1] - 1, 0) + (tokens[:, step : step + 1] == 0)
        return tokens

    return _answers(engine, change)


def cut(engine: Any, rank: int, *, after: int = 8) -> Undo:
    """What is written after `after` tokens is lost: zeros stand there."""

    def change(tokens: Tokens) -> Tokens:
        tokens[:, after:] = 0
        return tokens

    return _answers(engine, change)


def shortened(engine: Any, rank: int) -> Undo:
    """Each prompt loses its first token on the way."""
    return _prompts(engine, lambda row: row[1:] or row)


def misread(engine: Any, rank: int) -> Undo:
    """The last token of each prompt is read as the one before it."""
    return _prompts(engine, lambda row: [*row[:-1], row[-2]] if len(row) > 1 else row)


def doubled(engine: Any, rank: int) -> Undo:
    """The first token of each prompt is read twice."""
    return _prompts(engine, lambda row: [row[0], *row])


def padding_read(engine: Any, rank: int) -> Undo:
    """The padding of a batch is read as text."""
    return _around(engine, lambda batch: TokenBatch(batch.ids, np.ones_like(batch.mask)), lambda tokens: tokens)


def _answers(engine: Any, change: Callable[[Tokens], Tokens]) -> Undo:
    return _around(engine, lambda batch: batch, change)


def _prompts(engine: Any, change: Callable[[list[int]], list[int]]) -> Undo:
    return _around(engine, lambda batch: TokenBatch.of([change(row) for row in batch.rows]), lambda tokens: tokens)


def _around(engine: Any, before: Callable[[TokenBatch], TokenBatch], after: Callable[[Tokens], Tokens]) -> Undo:
    """Put `before` before every way in which `engine` generates, and `after` behind it, on tokens (rows, steps)."""
    names = [name for name in ("generate", "generate_top") if callable(getattr(engine, name, None))]
    for name in names:
        setattr(engine, name, _wrapped(getattr(engine, name), before, after))

    def undo() -> None:
        for name in names:
            delattr(engine, name)

    return undo


def _wrapped(right: Any, before: Callable[[TokenBatch], TokenBatch], after: Callable[[Tokens], Tokens]) -> Any:
    def generate(batch: TokenBatch, *args: Any, **kwargs: Any) -> Any:
        found = right(before(batch), *args, **kwargs)
        return replace(found, tokens=np.ascontiguousarray(after(found.tokens.copy())))

    return generate
