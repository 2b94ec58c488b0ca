"""Texts that reach beyond a model's attention windows, whatever their size: what a cache forgets shows there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genqual.conformance.judgement import Judgement
from genqual.conformance.oracle.registry import architecture_of
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput
from genqual.models import weights
from genqual.models.attention_shape import has_alibi, windows_said
from genqual.models.prompts import synthetic_rows
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.session.fixture_types import ScoringSample

BEYOND = 24
"""Tokens read behind the first that a layer no longer sees."""


def windows_of(spec: ModelSpec) -> tuple[int, ...]:
    """The windows of the model's layers, ascending: by its declaration, else as its configuration names them."""
    config = weights.config_if_here(spec)
    if config is None:
        return ()
    try:
        model, _ = architecture_of(config).declared(config)
    except BadInput:
        return windows_said(config)
    found = {model.layer_window(index) for index in range(len(model.blocks))}
    return tuple(sorted(window for window in found if window is not None))


def settled_length(spec: ModelSpec) -> int | None:
    """Tokens up to which reading in parts is what one pass is, by the model's declaration; None: any number.

    Beyond it rotary frequencies follow the length of the text (longrope, dynamic), and keys that are kept have others.
    """
    config = weights.config_if_here(spec)
    try:
        return None if config is None else architecture_of(config).declared(config)[0].settled_length
    except BadInput:
        return None


def biased_by_distance(spec: ModelSpec, positions: int | None) -> bool:
    """Whether the model has ALiBi: by its configuration, else (a hub id) where it names no number of `positions`."""
    config = weights.config_if_here(spec)
    return positions is None if config is None else has_alibi(config)


def long_text(generator: Generator, passage: ScoringSample, total: int) -> NDArray[np.int64]:
    """A text (total,) for this model: ids in any order for one that is built from integers, else its own words again.

    To a trained model random ids are no text: its rounding on them is another at every position, near ones too.
    """
    if generator.plan.model.source == "embedded":
        return np.array(synthetic_rows(generator.loaded[0].vocabulary, 1, total, seed=25)[0])
    words = [token for row in passage.texts for token in row]
    return np.resize(np.array(words, dtype=np.int64), total)


@dataclass(frozen=True, slots=True)
class Crossing:
    """One row that ends `BEYOND` tokens behind `window`; `forced` (1, steps) are its last tokens."""

    window: int
    batch: TokenBatch
    forced: NDArray[np.int64]

    @property
    def parts(self) -> list[int]:
        """Widths of passes: up to the window's edge, over it in two, then token by token."""
        return [self.window - 5, 9, 7, *[1] * 13]

    @property
    def singles(self) -> tuple[list[int], list[int]]:
        """Widths and detours: one pass over the edge, then token by token, each after a detour of three."""
        return [self.window + BEYOND - 13, *[1] * 13], [0, *[3] * 13]


def crossings(generator: Generator, passage: ScoringSample) -> Iterator[Crossing]:
    """A text for each window that the prompts do not reach, and the model's positions and settled length do.

    In a narrow dtype a mixture of experts has near ties of which no reference says where: only its fp32 is asked.
    """
    if passage.of_experts and generator.case.dtype != "fp32":
        return
    reached, limit = passage.prompts.ids.shape[1] + passage.steps, generator.loaded[0].max_positions
    steps = BEYOND - 4
    settled = settled_length(generator.plan.model)
    limit = min((one for one in (limit, settled) if one is not None), default=None)
    for window in windows_of(generator.plan.model):
        total = window + BEYOND + 1
        # A detour reads three tokens more.
        if window < 8 or window < reached - BEYOND or (limit is not None and total + 3 > limit):
            continue
        text = long_text(generator, passage, total)
        yield Crossing(window, TokenBatch.of([text[:-steps].tolist()]), text[None, -steps:])


def crossed_wrongly(generator: Generator, passage: ScoringSample, *, detours: bool) -> Judgement | None:
    """The first judgement that fails where a window is crossed by the model's own cache, against one pass without it.

    None where all agree, or no window is beyond the prompts. With `detours` tokens are read and taken out again.
    """
    for one in crossings(generator, passage):
        whole = generator.prefill_once(one.batch, one.forced)
        widths, away = one.singles if detours else (one.parts, [0] * len(one.parts))
        got = generator.score_passes(one.batch, one.forced, widths, away)
        found = passage.same(got, whole, dtype=generator.case.dtype, longest=one.window + BEYOND)
        if not found.passed:
            how = f"A text of {one.window + BEYOND} tokens, across the window of {one.window}, in passes of {widths}: "
            return replace(found, explanation=how + found.explanation)
    return None


def positions_beyond(spec: ModelSpec, limit: int | None) -> int:
    """How far a text must reach to be beyond every window of `spec`; 0 without one, `limit` where positions end."""
    windows = windows_of(spec)
    total = windows[-1] + BEYOND if windows else 0
    return total if limit is None else min(total, limit)
