"""What a test holds: typed calls on the live group of one case. No torch, no pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Json
from genqual.engines.base import ABILITIES, BEST, Generated, Scores, TokenBatch
from genqual.engines.registry import engine
from genqual.engines.remote.sign_tokenizer import sign
from genqual.errors import GenqualError, NotApplicable
from genqual.models import prompts
from genqual.models.fresh_prompts import FreshPrompts
from genqual.ranks.codec import decode
from genqual.ranks.connections import Reply
from genqual.ranks.errors import GroupLost
from genqual.ranks.group_client import GroupClient
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from genqual.ranks.protocol import Arrays


@dataclass(frozen=True, slots=True)
class Agreement:
    """SHA-256 by rank of what each computed: its greedy choices and, where it scored, its 16 best ids."""

    choices: tuple[str, ...]
    top: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether all ranks made the same choices."""
        return len(set(self.choices)) <= 1


class Generator(GroupClient):
    """One case, ready to generate and to score. Raises as `GroupClient` says."""

    def __init__(self, pool: Pool, plan: GroupPlan, prompts: FreshPrompts | None = None) -> None:
        super().__init__(pool, plan)
        self.prompts = FreshPrompts() if prompts is None else prompts
        """What an engine whose cache outlives a request is timed with; a session's generators share one source."""
        self.ranks_agree: Agreement | None = None
        """Of the last generate or score; None before the first."""
        self._known: dict[tuple[str | bytes, ...], Any] = {}  # by group and request

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """Greedy, exactly `new_tokens` a row. Tokens of rank 0; a step takes as long as on its slowest rank.

        `cpu_s` is the CPU time of all ranks together.
        """
        ranks = self.generate_ranks(batch, new_tokens)
        return replace(
            ranks[0],
            step_s=np.max([one.step_s for one in ranks], axis=0),
            wall_s=max(one.wall_s for one in ranks),
            cpu_s=sum(one.cpu_s for one in ranks),
        )

    def generate_top(
        self, batch: TokenBatch, new_tokens: int, best: int = BEST
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Tokens (rows, steps) of a run that nobody times; its `best` ids and log-probabilities (steps, rows, best).

        For engines below the logits tier. Raises NotApplicable for others, and for an engine that gives tokens only.
        """
        if self.plan.tier == "logits":
            raise NotApplicable(f"{self.case.engine} shows all its logits, and is judged by its logits")
        params: dict[str, Json] = {"new_tokens": new_tokens, "best": best}
        reply = self._able("top", params, {"ids": batch.ids, "mask": batch.mask})[0]
        found = decode(Generated, reply.value, reply.arrays)
        if found.top_ids is None or found.top_logprobs is None:
            raise NotApplicable(f"{self.case.engine} {ABILITIES['top']}: no log-probabilities came with them")
        return found.tokens, found.top_ids, found.top_logprobs

    def generate_ranks(self, batch: TokenBatch, new_tokens: int) -> list[Generated]:
        """As `generate`, with what each rank saw, in rank order."""
        replies = self._compute("generate", {"new_tokens": new_tokens}, batch, steps=new_tokens)
        return [decode(Generated, reply.value, reply.arrays) for reply in replies]

    def score(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        """Force `forced` (rows, steps) through the timed decode loop; statistics of rank 0."""
        return self._scores("score", batch, forced, logits)

    def score_once(self, batch: TokenBatch, forced: NDArray[np.int64]) -> Scores:
        """As `score`, asked once of a live group: the run that many properties compare another with.

        Asked again after a fault, its healing or a restart. A property of repetition, of what requests leave behind or
        of the timed path asks `score`, one of two times at least. `ranks_agree` stays that of the last request.
        """
        found: Scores = self._once(self.score, batch, forced)
        return found

    def prefill_once(self, batch: TokenBatch, forced: NDArray[np.int64]) -> Scores:
        """As `score_prefill`, asked once of a live group."""
        found: Scores = self._once(self.score_prefill, batch, forced)
        return found

    def generate_once(self, batch: TokenBatch, new_tokens: int) -> Generated:
        """As `generate`, asked once of a live group: for who wants the text and not the time."""
        found: Generated = self._once(self.generate, batch, new_tokens)
        return found

    def _once(self, ask: Callable[..., Any], batch: TokenBatch, asked: NDArray[np.int64] | int) -> Any:
        said = (str(asked.shape), asked.tobytes()) if isinstance(asked, np.ndarray) else (str(asked),)
        request = (ask.__name__, str(batch.ids.shape), batch.ids.tobytes(), batch.mask.tobytes(), *said)
        group = self._pool.live(self.plan)
        if group is None or (group.mark, *request) not in self._known:
            answer = ask(batch, asked)
            mark = self.group.mark
            self._known = {key: value for key, value in self._known.items() if key[0] == mark}
            self._known[(mark, *request)] = answer
        return self._known[(self.group.mark, *request)]

    def forget(self) -> None:
        """Ask anew what `score_once` and its like know: for whoever repeats the same tests to see them agree."""
        self._known.clear()

    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        """The same statistics from one pass over prompt + forced, without any cache."""
        return self._scores("score_prefill", batch, forced, logits)

    def inspect_used(self) -> list[dict[str, Json]]:
        """As `inspect`, of ranks that have decoded once at least: before that some engines do not know their cache."""
        group = self.group
        if not any(call[0] == group.mark and call[1] in ("generate", "score") for call in self._warm):
            # What the ranks refuse to generate says nothing against what they are.
            with contextlib.suppress(GenqualError, GroupLost):
                self.generate(TokenBatch.of([[min(3, group.loaded[0].vocabulary - 1)]]), 2)
        return self.inspect()

    def score_passes(
        self,
        batch: TokenBatch,
        forced: NDArray[np.int64],
        widths: Sequence[int],
        detours: Sequence[int] | None = None,
    ) -> Scores:
        """As `score`, with the text read in passes of `widths` tokens through one cache; needs the ability "passes".

        Before pass i, `detours[i]` other tokens are read and cropped from the cache again; a model that keeps a
        recurrent state cannot: NotApplicable.
        """
        params: dict[str, Json] = {"widths": list(widths), "detours": list(detours or [0] * len(widths))}
        if any(detours or ()):
            self._allows("crop")
        reply = self._able("passes", params, {"ids": batch.ids, "mask": batch.mask, "forced": forced})[0]
        return decode(Scores, reply.value, reply.arrays)

    def generate_until(
        self,
        batch: TokenBatch,
        new_tokens: int,
        *,
        eos: Sequence[int] = (),
        pad: int = 0,
        least: int = 0,
        max_length: bool = False,
        strings: Sequence[str] = (),
    ) -> list[NDArray[np.int64]]:
        """Tokens (rows, at most `new_tokens`) of a run that may stop, by rank; needs the ability "stops"."""
        params: dict[str, Json] = {
            **{"new_tokens": new_tokens, "eos": list(eos), "pad": pad, "least": least},
            **{"max_length": max_length, "strings": list(strings)},
        }
        replies = self._able("stops", params, {"ids": batch.ids, "mask": batch.mask})
        return [reply.arrays["tokens"] for reply in replies]

    def states(self, row: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of one row: what enters the first layer and leaves each, (1 + layers, tokens, hidden), and its logits.

        Needs the ability "states".
        """
        reply = self._able("states", {}, {"ids": np.array([list(row)], dtype=np.int64)})[0]
        return reply.arrays["states"], reply.arrays["logits"]

    def written_inputs(self, batch: TokenBatch, forced: NDArray[np.int64]) -> list[list[str]]:
        """Which of its inputs each rank wrote to in a generate and a score, by rank; needs the ability "inputs"."""
        arrays = {"ids": batch.ids, "mask": batch.mask, "forced": forced}
        return [cast("list[str]", reply.value["written"]) for reply in self._able("inputs", {}, arrays)]

    def first_answers(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Logits (1, vocabulary) of the pass that loading ended with, and of the same pass now, by rank.

        Needs the ability "first"; empty where the ranks kept none.
        """
        found = [reply.arrays for reply in self._able("first", {}, {})]
        return [(one["first"], one["again"]) for one in found if one]

    def unheeded_fields(self) -> list[str]:
        """Fields of a request that the engine takes and does not heed; needs the ability "fields"."""
        return [str(name) for name in cast("list[Json]", self._able("fields", {}, {})[0].value["unheeded"])]

    def generate_streams(self, batches: Sequence[TokenBatch], new_tokens: int) -> list[NDArray[np.int64]]:
        """Tokens (rows, `new_tokens`) of each rank, which has prompts of its own; needs the ability "streams"."""
        params: dict[str, Json] = {
            "prompts": [cast("Json", batch.rows) for batch in batches],
            "new_tokens": [new_tokens] * len(batches),
        }
        return [np.array(reply.value["tokens"], dtype=np.int64) for reply in self._able("streams", params, {})]

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text by which `generate_until` knows these tokens, where they come one after the other."""
        spec = self.plan.model
        return prompts.decode(spec, tokens) if prompts.has_tokenizer(spec) else "".join(map(sign, tokens))

    def _able(self, ability: str, params: dict[str, Json], arrays: Arrays) -> tuple[Reply, ...]:
        spec = engine(self.case.engine)
        reason = spec.lacking(ability)
        if reason is not None:
            raise NotApplicable(reason)
        self._allows(ability)
        return self.invoke(spec.abilities[ability], params, arrays)

    def _allows(self, ability: str) -> None:
        """Raise NotApplicable with the reason where the loaded model, whatever its engine, does not allow `ability`."""
        reason = self.loaded[0].lacks.get(ability)
        if reason is not None:
            raise NotApplicable(reason)

    def _scores(
        self, method: Literal["score", "score_prefill"], batch: TokenBatch, forced: NDArray[np.int64], logits: bool
    ) -> Scores:
        self._needs("logits")
        replies = self._compute(method, {"logits": logits}, batch, steps=forced.shape[1], forced=forced)
        return decode(Scores, replies[0].value, replies[0].arrays)

    def _compute(
        self, method: str, fields: dict[str, Json], batch: TokenBatch, *, steps: int, **arrays: NDArray[Any]
    ) -> tuple[Reply, ...]:
        rows, length = batch.ids.shape
        sent = {"ids": batch.ids, "mask": batch.mask, **arrays}
        replies = self._call(method, fields, sent, rows=rows, length=length, steps=steps)
        agree = [reply.value.pop("agree") for reply in replies]
        tops = tuple(one["top"] for one in agree if "top" in one)
        self.ranks_agree = Agreement(tuple(one["choices"] for one in agree), tops)
        return replies
