"""Inputs drawn by Hypothesis in the pytest process, and the search for the smallest wrong one. No torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from genqual.conformance.judgement import Judgement
from genqual.errors import GenqualError
from genqual.models.spec import ModelSpec

MOST: Final = 15  # examples a verdict may take
NIGHTLY: Final = 60  # and an exploring run


@dataclass(frozen=True, slots=True)
class Search:
    """How to look: `explore` draws at random and remembers in `database`; `shrink` makes a failure small."""

    explore: bool = False
    shrink: bool = True
    database: Path | None = None

    def settings(self, most: int) -> settings:
        """Hypothesis' own; a verdict is the same at every run."""
        phases = [Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if self.shrink else [])]
        keep = DirectoryBasedExampleDatabase(self.database) if self.explore and self.database else None
        return settings(
            max_examples=NIGHTLY if self.explore else min(most, MOST),
            derandomize=not self.explore,
            database=keep,
            deadline=None,  # ranks have deadlines of their own
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )


class _Wrong(Exception):
    """An example that fails: Hypothesis makes it smaller."""


class _Ended(BaseException):
    """Something that no smaller example mends. A BaseException, so that Hypothesis stops at once."""


def search(
    name: str, check: Callable[..., Judgement], strategies: Mapping[str, SearchStrategy[Any]], most: int, how: Search
) -> Judgement:
    """The judgement of the worst example drawn, or of the smallest that fails, the example in its explanation.

    Raises what `check` raises of genqual's own errors, at once.
    """
    seen: list[tuple[dict[str, Any], Judgement]] = []

    def one(**example: Any) -> None:
        try:
            judgement = check(**example)
        except GenqualError as error:
            raise _Ended from error
        seen.append((example, judgement))
        if judgement.status == "no_reference":
            if judgement.total:  # near ties of routers reach all of this example: others may be judged
                return
            raise _Ended
        if not judgement.passed:
            raise _Wrong

    one.__name__ = one.__qualname__ = name  # Hypothesis' database and its fixed seed go by the name
    try:
        how.settings(most)(given(**strategies)(one))()
    except _Wrong:
        example, found = seen[-1]  # the last one tried is the smallest: Hypothesis repeats it to raise
        text = f"{found.explanation} Smallest example of {len(seen)} tried: {_said(example)}."
        return replace(found, explanation=text, shape=_one_shape(seen))
    except Flaky:  # Hypothesis repeats an example before it says so; an engine that remembers need not repeat itself
        example, found = [pair for pair in seen if not pair[1].passed][-1]
        text = (
            f"{found.explanation} Example: {_said(example)}; it passed when it was tried again, so what the engine says"
            " depends on the requests before."
        )
        return replace(found, explanation=text, shape=_one_shape(seen))
    except _Ended as end:
        if end.__cause__ is not None:
            raise end.__cause__ from None
        return seen[-1][1]
    seen = [pair for pair in seen if pair[1].status != "no_reference"] or seen[-1:]
    example, found = max(seen, key=lambda pair: (pair[1].ratio or 0.0, pair[1].judged))
    return replace(
        found,
        explanation=f"{len(seen)} examples, the nearest to its bound {_said(example)}: {found.explanation}",
        judged=sum(judgement.judged for _, judgement in seen),
        total=sum(judgement.total for _, judgement in seen),
        shape=_one_shape(seen),
    )


def _one_shape(seen: Sequence[tuple[dict[str, Any], Judgement]]) -> tuple[int, int] | None:
    """The (steps, rows) of every example, where all have the same."""
    shapes = {judgement.shape for _, judgement in seen}
    return shapes.pop() if len(shapes) == 1 else None


def _said(example: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_plain(value)}" for name, value in example.items())


def _plain(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, np.ndarray) else repr(value)


def tokens(vocabulary: int, special: Collection[int] = ()) -> SearchStrategy[int]:
    """Ids below `vocabulary` but for the `special` ones; they shrink to the lowest.

    A real model never learnt to go on from nothing but its marks, and its rounding there is not that of a text:
    docs/judge.md, "What is no text".
    """
    if not special:
        return st.integers(0, vocabulary - 1)
    ordinary = np.setdiff1d(np.arange(vocabulary), list(special))
    return st.integers(0, len(ordinary) - 1).map(lambda place: int(ordinary[place]))


def rows(token: SearchStrategy[int], *, most_rows: int = 3, most_tokens: int = 9) -> SearchStrategy[list[list[int]]]:
    """Prompts; they shrink to one row of one token."""
    return st.lists(st.lists(token, min_size=1, max_size=most_tokens), min_size=1, max_size=most_rows)


def row(token: SearchStrategy[int], *, least: int = 1, most: int = 12) -> SearchStrategy[list[int]]:
    """One row of tokens."""
    return st.lists(token, min_size=least, max_size=most)


def beginnings(texts: Sequence[Sequence[int]], *, least: int = 1, most: int = 12) -> SearchStrategy[list[int]]:
    """The first tokens of one of `texts`; they shrink to the shortest beginning of the first text."""
    places = st.tuples(st.integers(0, len(texts) - 1), st.integers(least, most))
    return places.map(lambda place: list(texts[place[0]][: place[1]]))


def text_of(
    model: ModelSpec, token: SearchStrategy[int], texts: Sequence[Sequence[int]]
) -> Callable[..., SearchStrategy[list[int]]]:
    """Draws `least` to `most` ids: any `token` of a model built from integers, of a trained one beginnings of `texts`.

    Ids in no order are no text to a trained model: its fault-free rounding there is many times that of the texts that
    its limits were measured on (docs/judge.md, "What is no text").
    """
    return partial(row, token) if model.source == "embedded" else partial(beginnings, texts)


@st.composite
def cuts(draw: st.DrawFn, total: int, first: int = 1) -> list[int]:
    """Widths of at least 1, the first of at least `first`, that add up to `total`; they shrink to few passes."""
    widths: list[int] = []
    while (left := total - sum(widths)) > 0:
        widths.append(left - draw(st.integers(0, left - (1 if widths else first))))
    return widths
