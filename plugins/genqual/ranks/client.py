"""What a test holds: typed calls on the live group of one case. No torch, no pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from genqual.cases import Case, Json
from genqual.engines.base import ABILITIES, BEST, Generated, Loaded, Memory, Scores, TokenBatch
from genqual.engines.registry import engine
from genqual.engines.remote.sign_tokenizer import sign
from genqual.errors import GenqualError, NotApplicable, NotEvident
from genqual.models import prompts
from genqual.models.fresh_prompts import FreshPrompts
from genqual.ranks.codec import decode
from genqual.ranks.connections import Reply
from genqual.ranks.errors import GroupLost
from genqual.ranks.group import RankGroup
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


class Generator:
    """One case, ready to generate. Every call goes to all ranks of its live group, started or replaced when needed.

    Raises Unsupported, OutOfMemory or EngineFailed when every rank did (the group lives on), GroupLost when not.
    """

    def __init__(self, pool: Pool, plan: GroupPlan) -> None:
        self._pool = pool
        self.plan = plan
        self.prompts = FreshPrompts()
        """What an engine whose cache outlives a request is timed with; a session's generators share one source."""
        self.ranks_agree: Agreement | None = None
        """Of the last generate or score; None before the first."""
        self._warm: set[tuple[str, ...]] = set()
        self._known: dict[tuple[str | bytes, ...], Scores] = {}  # by group and request
        self._faults: list[dict[str, Json]] = []
        self._spoilt: tuple[tuple[str, int], list[str]] = (("", 0), [])  # group and faults in it; weights with them

    @property
    def case(self) -> Case:
        return self.plan.case

    @property
    def group(self) -> RankGroup:
        """The live group; starts it."""
        return self._pool.get(self.plan)

    @property
    def loaded(self) -> list[Loaded]:
        """What loading gave, by rank; starts the group."""
        return list(self.group.loaded)

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
        of the timed path asks `score`. `ranks_agree` stays that of the last request.
        """
        request = (batch.ids.tobytes(), batch.mask.tobytes(), forced.tobytes(), str((batch.ids.shape, forced.shape)))
        group = self._pool.live(self.plan)
        if group is None or (group.mark, *request) not in self._known:
            scores = self.score(batch, forced)
            mark = self.group.mark
            self._known = {key: value for key, value in self._known.items() if key[0] == mark}
            self._known[(mark, *request)] = scores
        return self._known[(self.group.mark, *request)]

    def forget(self) -> None:
        """Ask anew what `score_once` knows: for whoever repeats the same tests to see them agree."""
        self._known.clear()

    def score_prefill(self, batch: TokenBatch, forced: NDArray[np.int64], *, logits: bool = False) -> Scores:
        """The same statistics from one pass over prompt + forced, without any cache."""
        return self._scores("score_prefill", batch, forced, logits)

    def memory(self, *, reset: bool = False, trim: bool = False) -> list[Memory]:
        """Bytes by rank. `trim` first gives back what is freed; `reset`, then, begins the next peak."""
        return [decode(Memory, reply.value) for reply in self._call("memory", {"reset": reset, "trim": trim})]

    def inspect(self) -> list[dict[str, Json]]:
        """Which kernels, shards and settings really run, by rank."""
        return [reply.value["inspect"] for reply in self._call("inspect")]

    def inspect_used(self) -> list[dict[str, Json]]:
        """As `inspect`, of ranks that have decoded once at least: before that some engines do not know their cache."""
        group = self.group
        if not any(call[0] == group.mark and call[1] in ("generate", "score") for call in self._warm):
            # What the ranks refuse to generate says nothing against what they are.
            with contextlib.suppress(GenqualError, GroupLost):
                self.generate(TokenBatch.of([[min(3, group.loaded[0].vocabulary - 1)]]), 2)
        return self.inspect()

    def weight_hash(self) -> list[str]:
        """Of what each rank holds now, by rank. Raises NotEvident where the engine shows tokens only."""
        self._needs("weights")
        return [str(reply.value["weight_hash"]) for reply in self._call("weight_hash")]

    def invoke(
        self,
        entry: str,
        params: Mapping[str, Json] | None = None,
        arrays: Arrays | None = None,
        *,
        deadline_s: float | None = None,
    ) -> tuple[Reply, ...]:
        """Call `module:function(engine, **params, **arrays)` in every rank; each answer is its mapping or dataclass.

        The function finds its rank in the environment, as RANK. `deadline_s` overrides the plan's for long work.
        """
        return self._call("invoke", {"entry": entry, "params": dict(params or {})}, arrays, deadline_s=deadline_s)

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

    @contextlib.contextmanager
    def fault(self, entry: str, **params: Json) -> Iterator[None]:
        """Inject `module:function(engine, rank, **params)` for a block; what it returned undoes it afterwards.

        Ends the group instead when healing fails. A lost group needs no healing.
        """
        group = self.group
        self._call("fault", {"entry": entry, "params": params})
        try:
            yield
        finally:
            if group.alive:
                try:
                    self._call("heal")
                except BaseException:
                    self._pool.drop(self.plan)
                    raise

    @contextlib.contextmanager
    def spoilt(self, entry: str, params: Mapping[str, Json]) -> Iterator[None]:
        """As `fault`, for a whole suite of tests: a group that replaces this one within the block has the fault too.

        `verify_unmutated` takes the weights as the fault left them. Afterwards a group whose weights are not those
        that were loaded is ended.
        """
        self._faults.append({"entry": entry, "params": dict(params)})
        try:
            self._inject(self.group)
            yield
        finally:
            self._faults.pop()
            self._spoilt = (("", 0), [])
            group = self._pool.live(self.plan)
            if group is not None:
                try:
                    self._call("heal")
                    mended = self._weights_now() == [one.weight_hash for one in group.loaded]
                except BaseException:
                    self._pool.drop(self.plan)
                    raise
                if not mended:
                    self._pool.drop(self.plan)

    def _inject(self, group: RankGroup) -> None:
        """Put the faults of the enclosing blocks into `group`, if it is a fresh one; then note its weights."""
        if not self._faults or self._spoilt[0] == (group.mark, len(self._faults)):
            return
        done = self._spoilt[0][1] if self._spoilt[0][0] == group.mark else 0
        self._spoilt = ((group.mark, len(self._faults)), [])
        for fields in self._faults[done:]:
            self._call("fault", fields)
        self._spoilt = (self._spoilt[0], self._weights_now())

    def _weights_now(self) -> list[str]:
        """The weights' hashes by rank; as they were loaded where the engine shows none, since no fault reaches them."""
        if self.plan.tier == "tokens":
            return [one.weight_hash for one in self.group.loaded]
        return self.weight_hash()

    @contextlib.contextmanager
    def undisturbed(self, *others: Generator) -> Iterator[None]:
        """Keep the cores and cards of this case (and of `others`) for several calls; else each call leases them."""
        self._pool.forget_begun()
        with self._pool.computing(self.plan, *(other.plan for other in others)):
            yield

    def restart(self) -> None:
        """End the group, so that the next call runs in fresh processes."""
        self._pool.drop(self.plan)

    def verify_unmutated(self) -> bool:
        """Compare weights with those at load, or as a fault left them; on a difference end the group, return False.

        For after a failed verdict or an OutOfMemory, so that no later test inherits damaged weights. Where the engine
        shows no weights there is nothing to compare, and the group is kept.
        """
        if self.plan.tier == "tokens":
            return True
        now = self.weight_hash()
        if now == [one.weight_hash for one in self.group.loaded] or (self._faults and now == self._spoilt[1]):
            return True
        self._pool.drop(self.plan)
        return False

    def _scores(
        self, method: Literal["score", "score_prefill"], batch: TokenBatch, forced: NDArray[np.int64], logits: bool
    ) -> Scores:
        self._needs("logits")
        replies = self._compute(method, {"logits": logits}, batch, steps=forced.shape[1], forced=forced)
        return decode(Scores, replies[0].value, replies[0].arrays)

    def _needs(self, what: str) -> None:
        if self.plan.tier == "tokens":
            raise NotEvident(
                f"{self.case}: this property needs {what}; {self.case.engine} gives tokens only (evidence tier: tokens)"
            )

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

    def _call(
        self,
        method: str,
        fields: dict[str, Json] | None = None,
        arrays: Arrays | None = None,
        *,
        deadline_s: float | None = None,
        **work: int,
    ) -> tuple[Reply, ...]:
        if fields is not None and "entry" in fields:
            fields = {**fields, "entry": self.plan.name(str(fields["entry"]))}
        with self._pool.computing(self.plan):
            group = self._pool.get(self.plan)
            if method in ("fault", "heal"):
                self.forget()
            else:
                self._inject(group)
            # A static graph is compiled for each shape, so each shape has a first call.
            call = (group.mark, method, *(f"{name}={size}" for name, size in sorted(work.items())))
            if deadline_s is None:
                deadline_s = self.plan.deadlines.call(method, first=call not in self._warm, **work)
            replies = group.call(method, fields, arrays, deadline_s=deadline_s)
            self._warm.add(call)
            return replies
