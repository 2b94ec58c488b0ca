"""An oracle that is not ours: transformers in fp32, in a rank on the CPU, for architectures that ours do not know."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.engines.base import TokenBatch
from genqual.errors import BadInput, NotEvident, Unsupported
from genqual.models.spec import ModelSpec
from genqual.ranks.client import Generator
from genqual.ranks.on_cpu import cpu_generator

_ROUTERS: Final = "genqual.engines.hf.routers:margins"

BY: Final = "transformers"
"""What a reference's generator says under "by" when this made it."""


class PeerOracle:
    """What transformers says of a model in fp32. Not independent: an engine under test may share its code and faults.

    Greedy tokens are those of single passes, so that both ways of asking agree where a step is a near tie.
    """

    independent = False

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._last: tuple[tuple[int, ...], NDArray[np.float64]] | None = None

    @property
    def architecture(self) -> str:
        return self._generator.plan.model.architecture

    @property
    def vocabulary(self) -> int:
        return self._generator.loaded[0].vocabulary

    def logits(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits (tokens, vocabulary) after each of `ids` (tokens,), in one pass. Raises BadInput on no ids."""
        row = tuple(int(i) for i in ids)
        if not row:
            raise BadInput("no token ids: a row of at least one is wanted")
        if self._last is None or self._last[0] != row:
            # The last token is read by nobody: `score_prefill` asks for one to score after each position.
            forced = np.array([[*row[1:], 0]], dtype=np.int64)
            found = self._generator.score_prefill(TokenBatch.of([row[:1]]), forced, logits=True).logits
            if found is None:
                raise NotEvident(f"{self._generator.case}: gave no logits back")
            self._last = row, found[:, 0].astype(np.float64)
        return self._last[1]

    def traced(self, ids: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """`logits`, and how near each router was to another expert, (tokens, layers): None without routers.

        Relative, as genqual's own oracles say it; in fp32, and of what is seen from outside.
        """
        return self.logits(ids), self.router_margins(ids)

    def router_margins(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The margins of `traced` alone."""
        row = np.array([[int(i) for i in ids]], dtype=np.int64)
        return self._generator.invoke(_ROUTERS, {}, {"ids": row})[0].arrays.get("margins")

    def greedy(self, prompt: Sequence[int] | NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        """The `steps` tokens (steps,) that follow `prompt`, each the best of a single pass over what is before it."""
        row, chosen = [int(i) for i in prompt], np.zeros(0, dtype=np.int64)
        agreed = 0
        while agreed < steps:
            batch = TokenBatch.of([[*row, *chosen[:agreed].tolist()]])
            rest = self._generator.generate(batch, steps - agreed).tokens[0]
            chosen = np.concatenate([chosen[:agreed], rest])
            best = self.logits([*row, *chosen[:-1].tolist()])[len(row) - 1 :].argmax(axis=-1)
            wrong = np.flatnonzero(best != chosen)
            if not wrong.size:
                break
            chosen[wrong[0]] = best[wrong[0]]  # through the cache a near tie fell the other way
            agreed = int(wrong[0]) + 1
        if agreed == steps:  # the last token was the one that was mended: what is before it has been read already
            self.logits([*row, *chosen[:-1].tolist()])
        return chosen


@contextmanager
def peer_oracle(
    spec: ModelSpec, *, progress: Callable[[str], None], stream: bool = False, taken: Collection[str] = ()
) -> Iterator[PeerOracle]:
    """transformers in fp32 over `spec` in a process of its own, ended afterwards; `stream` offloads weights to disk.

    Eager attention where the architecture has it, as the plainest. Raises as loading does: Unsupported when this
    transformers does not know the architecture.
    """
    with cpu_generator(spec, "fp32", "eager", progress=progress, stream=stream, taken=taken) as eager:
        try:
            eager.group  # noqa: B018 - starts it, to see whether it loads
        except Unsupported:
            pass
        else:
            yield PeerOracle(eager)
            return
    with cpu_generator(spec, "fp32", None, progress=progress, stream=stream, taken=taken) as any_attention:
        yield PeerOracle(any_attention)


def facts() -> dict[str, Json]:
    """What a reference keeps about this oracle: by what, and in which versions."""
    versions: dict[str, Json] = {name: importlib.metadata.version(name) for name in ("transformers", "torch")}
    return {"by": BY, "oracle": "transformers fp32", "oracle_sha256": None, **versions}
