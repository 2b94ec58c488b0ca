"""The types of what fixtures give to a test, and the outcome of a test that cannot be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, Protocol, TypedDict

import numpy as np
import pytest
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from genqual.conformance.judgement import Judgement, fp32_limit_at
from genqual.conformance.judges import logits
from genqual.conformance.judges.free_run import Rescore, margins_by
from genqual.conformance.oracle.core import F64
from genqual.conformance.references.make import Reference
from genqual.conformance.tolerance import RoundingEnvelope
from genqual.engines.base import Scores, TokenBatch
from genqual.errors import BadInput, NotApplicable
from genqual.metrics.slo import Limit
from genqual.session import outcome
from genqual.session.node_items import NodeCheck
from genqual.session.outcome import VerdictName


class GiveVerdict(Protocol):
    """Records a judgement and makes it the outcome of the running test."""

    def __call__(self, judgement: Judgement) -> None: ...


class JudgeNode(Protocol):
    """Runs one check of the node and makes its verdict the outcome of the running test."""

    def __call__(self, asked: NodeCheck) -> None: ...


class Examples(Protocol):
    """Judges what `check` says of drawn examples; the worst, or the smallest wrong one, is the test's outcome.

    At most `most` examples, small ones first; `check` takes one keyword for each strategy.
    """

    def __call__(
        self, check: Callable[..., Judgement], *, most: int = 5, **strategies: SearchStrategy[Any]
    ) -> None: ...


class DrawText(Protocol):
    """Draws the ids of a text of `least` to `most` tokens."""

    def __call__(self, *, least: int = 1, most: int = 12) -> SearchStrategy[list[int]]: ...


class BenchmarkMetric(Protocol):
    """Makes the verdict on one metric of the workload the outcome of the running test."""

    def __call__(self, metric: str) -> None: ...


class LargestBatch(Protocol):
    """Finds, records and shows the largest batch that fits."""

    def __call__(self) -> None: ...


class ConcurrentInstances(Protocol):
    """Runs several instances at the same time, records and shows what they do in all."""

    def __call__(self) -> None: ...


class SloVerdict(Protocol):
    """Makes MEETS or MISSES of one limit of the profile the outcome of the running test."""

    def __call__(self, limit: Limit) -> None: ...


class SampleText(Protocol):
    """Shows, at the end of the run, how the first prompt goes on with `tokens` (rows, steps)."""

    def __call__(self, tokens: NDArray[np.int64]) -> None: ...


class Tolerated(TypedDict):
    """What two fault-free runs may differ by: arguments of `judge_same_text`."""

    spread: float | None
    envelope: RoundingEnvelope | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """Whole `rows` of ids that no reference holds, and the oracle that may be asked for their routers' margins."""

    rows: Sequence[Sequence[int]]
    rescore: Rescore

    @classmethod
    def after(cls, batch: TokenBatch, forced: NDArray[np.int64], rescore: Rescore) -> Drawn:
        """Of each prompt of `batch` with what is forced after it (rows, steps)."""
        return cls([[*row, *after] for row, after in zip(batch.rows, forced.tolist(), strict=True)], rescore)

    def ties(self) -> list[F64] | None:
        """Margins (tokens, layers) of each row but its last token; None where nobody can say."""
        asked = margins_by(self.rescore)
        try:
            found = [asked(row[:-1]) for row in self.rows] if asked else []
        except BadInput:  # a reference whose oracle is not to be had here
            return None
        known = [margins for margins in found if margins is not None]
        return known if known and len(known) == len(self.rows) else None


def unless_tied(judgement: Judgement) -> Judgement:
    """`judgement`. Raises NotApplicable where near ties of routers reach nearly all that a short text has.

    Such a text is no evidence for or against: a verdict of another property, of more rows, is.
    """
    if judgement.status == "no_reference" and judgement.total:
        raise NotApplicable(judgement.explanation)
    return judgement


@dataclass(frozen=True, slots=True)
class ScoringSample:
    """Prompts and the tokens forced after them, `forced` (rows, steps), with the oracle's word where it gave one.

    `of_experts`: the model is a mixture of experts, whose bits depend on the other tokens of a pass. Its configuration
    says so, not its reference: without one, or with transformers' own, a right engine has no other bits.
    """

    prompts: TokenBatch
    forced: NDArray[np.int64]
    reference: Reference | None
    of_experts: bool = False

    @property
    def steps(self) -> int:
        return int(self.forced.shape[1])

    @property
    def texts(self) -> list[list[int]]:
        """Each prompt with what is forced after it."""
        return [[*prompt, *after] for prompt, after in zip(self.prompts.rows, self.forced.tolist(), strict=True)]

    def padded(self, columns: int) -> TokenBatch:
        """The same prompts behind `columns` more columns of padding."""
        return TokenBatch.of(self.prompts.rows, length=self.prompts.ids.shape[1] + columns)

    def row(self, index: int) -> tuple[TokenBatch, NDArray[np.int64]]:
        """One prompt alone, without padding, and its tokens."""
        return TokenBatch.of([self.prompts.rows[index]]), self.forced[[index]]

    def few(self, rows: int, steps: int) -> ScoringSample:
        """The first `rows` prompts, `steps` tokens of each: where a property needs no more."""
        prompts, forced = TokenBatch.of(self.prompts.rows[:rows]), self.forced[:rows, :steps]
        return replace(self, prompts=prompts, forced=forced)

    def tolerance(self, dtype: str) -> Tolerated:
        """Spread and envelope of the reference, where there is one."""
        known = self.reference
        if known is None:
            return {"spread": None, "envelope": None}
        return {"spread": known.pooled_spread, "envelope": known.envelopes.get(dtype)}

    def same(
        self,
        a: Scores,
        b: Scores,
        *,
        dtype: str,
        rows: Sequence[int] | None = None,
        drawn: Drawn | None = None,
        longest: int = 0,
    ) -> Judgement:
        """Judge whether two ways of computing agree, by the reference's spread and envelope where there is one.

        `rows` are those of these prompts that both were forced on, in order, from the first step on: the reference then
        says where a router is near a tie. Without it, both were forced on another text, where `drawn` says so. Raises
        ValueError when there are more or fewer `rows` than the runs have. `longest` positions that a long text reaches
        widen fp32's limit.
        """
        if rows is not None and a.top_ids.shape[1] != len(rows):
            raise ValueError(f"scores of {a.top_ids.shape[1]} rows, said to be rows {list(rows)} of the passage")
        known = self.reference
        judge = partial(
            logits.judge_same,
            a,
            b,
            dtype=dtype,
            reference_spread=known.pooled_spread if known else None,
            envelope=known.envelopes.get(dtype) if known else None,
            fp32_limit=fp32_limit_at(longest),
            text=self._text(rows, len(a.top_ids)),
        )
        judged = judge()
        if judged.passed or drawn is None or known is None or known.router_margins is None:
            return judged
        ties = drawn.ties()  # an oracle is asked for where something seems wrong, and not before
        return judge(ties=ties) if ties else judged

    def _text(self, rows: Sequence[int] | None, steps: int) -> Reference | None:
        """The reference of `rows` and `steps` of this passage, of a mixture of experts; None where it has none."""
        known = self.reference
        if (
            known is None
            or rows is None
            or known.router_margins is None
            or steps > known.steps
            or max(rows) >= known.rows
        ):
            return None
        part = known.select(rows=list(rows), steps=steps)
        return part if (self.forced[list(rows), :steps] == part.forced).all() else None

    @property
    def every_row(self) -> range:
        """Of the prompts."""
        return range(len(self.prompts.rows))


def unjudged(node: pytest.Item, status: VerdictName, why: str, *, gate: bool) -> NoReturn:
    """End a test that cannot be judged: under its own name, skipped in JUnit, a failure under `--gate`."""
    outcome.tell(node, verdict=status, reason=why)
    text = unjudged_text(status, why)
    if gate:
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def unjudged_text(status: str, why: str) -> str:
    """What such a test says: `NO BASELINE: ...`."""
    return f"{status.upper().replace('_', ' ')}: {why}"
