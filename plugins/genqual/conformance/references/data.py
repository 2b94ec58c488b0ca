"""What the oracle said of one model on a set of prompts: the data, whole and checked. Pure: NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.conformance.oracle.core import F64, I64
from genqual.conformance.tolerance import RoundingEnvelope
from genqual.engines.projection import COUNT, TOP
from genqual.errors import BadInput


def oracle_words(*, independent: bool) -> str:
    """What verdicts call an oracle."""
    return "the oracle" if independent else "an oracle that is not independent of the engines"


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Greedy generation of `model` by the oracle, teacher forced on its own tokens; logits in float64.

    `tokens`, `margins` (first minus second logit), `logsumexp`, `spread` (standard deviation of the logits): (steps,
    rows); `top_ids`, `top_logits`: (steps, rows, 16), best first; `projections`: (steps, rows, 256) float32, see
    `engines.projection`. `envelopes` holds what fault-free runs of each scheme read. `independent` is False when the
    oracle shares code with an engine. `sha256` is that of the file it was read from, empty before it is written.
    `router_margins` (rows, positions, layers) float32, relative, as `oracle.experts` notes them: how near each token of
    a prompt and what was chosen after it was to another expert; infinite in layers without a router and behind a row's
    end. None: the model has no routers, or the oracle does not say.
    """

    model: str
    weights_sha256: str
    vocabulary: int
    prompts: tuple[tuple[int, ...], ...]
    tokens: I64
    margins: F64
    top_ids: I64
    top_logits: F64
    logsumexp: F64
    spread: F64
    projections: NDArray[np.float32]
    independent: bool
    generator: Mapping[str, Json]
    envelopes: Mapping[str, RoundingEnvelope] = field(default_factory=dict)
    sha256: str = ""
    router_margins: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        cells = self.tokens.shape
        if self.tokens.ndim != 2 or 0 in cells or cells[1] != len(self.prompts) or not all(self.prompts):
            raise ValueError(f"tokens {cells} for {len(self.prompts)} prompts: (steps, rows), neither empty")
        wanted = {
            "margins": cells,
            "logsumexp": cells,
            "spread": cells,
            "top_ids": (*cells, TOP),
            "top_logits": (*cells, TOP),
            "projections": (*cells, COUNT),
        }
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} {array.shape}: wanted {shape}, all finite")
        if (self.margins < 0).any() or (self.spread <= 0).any() or (self.top_ids[..., 0] != self.tokens).any():
            raise ValueError("margins below zero, logits that do not vary, or tokens that are not the best ones")
        routers, longest = self.router_margins, self.longest - 1
        if routers is not None and (routers.shape[:2] != (cells[1], longest) or routers.ndim != 3):
            raise ValueError(f"router_margins {routers.shape}: wanted ({cells[1]}, {longest}, layers)")
        if routers is not None and not (routers >= 0).all():
            raise ValueError("router_margins: none is below zero, and each is a number")
        for scheme, envelope in self.envelopes.items():
            if envelope.errors.shape[1:] != cells:
                raise ValueError(f"envelope {scheme}: errors {envelope.errors.shape}, wanted (runs, steps, rows)")

    @property
    def steps(self) -> int:
        return len(self.tokens)

    @property
    def rows(self) -> int:
        return len(self.prompts)

    @property
    def oracle(self) -> str:
        """What verdicts call the oracle that said so."""
        return oracle_words(independent=self.independent)

    @property
    def forced(self) -> I64:
        """`tokens` as engines take them: (rows, steps)."""
        return np.ascontiguousarray(self.tokens.T)

    @property
    def pooled_spread(self) -> float:
        """Standard deviation of the oracle's logits, pooled over steps and rows; logit units."""
        return float(np.sqrt((self.spread * self.spread).mean()))

    @property
    def longest(self) -> int:
        """Positions that the longest row reaches: its prompt and all steps."""
        return max(map(len, self.prompts)) + self.steps

    def select(self, *, rows: Sequence[int] | None = None, steps: int | None = None) -> Reference:
        """The reference of some rows (in that order) and of the first `steps` only.

        Raises BadInput when it has no such rows or steps.
        """
        chosen = list(range(self.rows)) if rows is None else list(rows)
        count = self.steps if steps is None else steps
        if not chosen or not set(chosen) <= set(range(self.rows)) or not 1 <= count <= self.steps:
            raise BadInput(
                f"rows {chosen}, steps {count}: the reference of {self.model} has {self.rows} and {self.steps}"
            )
        spread = self.spread[:count, chosen]
        longest = max(len(self.prompts[i]) for i in chosen) + count - 1
        routers = self.router_margins
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in chosen),
            tokens=self.tokens[:count, chosen],
            margins=self.margins[:count, chosen],
            top_ids=self.top_ids[:count, chosen],
            top_logits=self.top_logits[:count, chosen],
            logsumexp=self.logsumexp[:count, chosen],
            spread=spread,
            projections=self.projections[:count, chosen],
            router_margins=None if routers is None else routers[chosen, :longest],
            envelopes={name: e.select(spread, chosen, count) for name, e in self.envelopes.items()},
        )

    def after(self, begun: int) -> Reference:
        """The same text with its first `begun` steps moved into the prompts. Raises BadInput when none is left."""
        if not 0 <= begun < self.steps:
            raise BadInput(f"{begun} steps in the prompts: the reference of {self.model} has {self.steps}")
        spread = self.spread[begun:]
        begins = [tuple(int(token) for token in row[:begun]) for row in self.forced]
        return replace(
            self,
            prompts=tuple((*prompt, *more) for prompt, more in zip(self.prompts, begins, strict=True)),
            tokens=self.tokens[begun:],
            margins=self.margins[begun:],
            top_ids=self.top_ids[begun:],
            top_logits=self.top_logits[begun:],
            logsumexp=self.logsumexp[begun:],
            spread=spread,
            projections=self.projections[begun:],
            envelopes={name: e.after(spread, begun) for name, e in self.envelopes.items()},
        )
