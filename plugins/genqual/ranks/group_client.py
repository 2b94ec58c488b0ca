"""The live group of one case and what any caller may ask of it: calls, faults, leases. No torch, no pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from genqual.cases import Case, Json
from genqual.engines.base import Loaded, Memory
from genqual.errors import NotEvident
from genqual.ranks.codec import decode
from genqual.ranks.connections import Reply
from genqual.ranks.group import RankGroup
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from genqual.ranks.protocol import Arrays


class GroupClient:
    """One case. Every call goes to all ranks of its live group, which is started or replaced when needed.

    Raises Unsupported, OutOfMemory or EngineFailed when every rank did (the group lives on), GroupLost when not.
    """

    def __init__(self, pool: Pool, plan: GroupPlan) -> None:
        self._pool = pool
        self.plan = plan
        self._warm: set[tuple[str, ...]] = set()
        self._faults: list[dict[str, Json]] = []
        self._with_fault: tuple[tuple[str, int], list[str]] = (("", 0), [])  # group and faults in it; weights with them

    def forget(self) -> None:
        """Ask anew what is kept of earlier answers: a fault is about to come or go."""

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

    def memory(self, *, reset: bool = False, trim: bool = False) -> list[Memory]:
        """Bytes by rank. `trim` first gives back what is freed; `reset`, then, begins the next peak."""
        return [decode(Memory, reply.value) for reply in self._call("memory", {"reset": reset, "trim": trim})]

    def inspect(self) -> list[dict[str, Json]]:
        """Which kernels, shards and settings really run, by rank."""
        return [reply.value["inspect"] for reply in self._call("inspect")]

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
    def with_fault(self, entry: str, params: Mapping[str, Json]) -> Iterator[None]:
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
            self._with_fault = (("", 0), [])
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
        if not self._faults or self._with_fault[0] == (group.mark, len(self._faults)):
            return
        done = self._with_fault[0][1] if self._with_fault[0][0] == group.mark else 0
        self._with_fault = ((group.mark, len(self._faults)), [])
        for fields in self._faults[done:]:
            self._call("fault", fields)
        self._with_fault = (self._with_fault[0], self._weights_now())

    def _weights_now(self) -> list[str]:
        """The weights' hashes by rank; as they were loaded where the engine shows none, since no fault reaches them."""
        if self.plan.tier == "tokens":
            return [one.weight_hash for one in self.group.loaded]
        return self.weight_hash()

    @contextlib.contextmanager
    def undisturbed(self, *others: GroupClient) -> Iterator[None]:
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
        if now == [one.weight_hash for one in self.group.loaded] or (self._faults and now == self._with_fault[1]):
            return True
        self._pool.drop(self.plan)
        return False

    def _needs(self, what: str) -> None:
        if self.plan.tier == "tokens":
            raise NotEvident(
                f"{self.case}: this property needs {what}; {self.case.engine} gives tokens only (evidence tier: tokens)"
            )

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
