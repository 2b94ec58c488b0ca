"""The live groups of one pytest process: least recently used out, lost ones replaced, none left behind. No torch."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator

from genqual.devices.base import Placement
from genqual.errors import BadInput, GenqualError, Unsupported
from genqual.ranks.errors import GroupLost
from genqual.ranks.group import Progress, RankGroup
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.leases import WAIT_S, Leases


class Pool:
    """Keeps up to `size` groups alive; two, because comparing degrees of tensor parallelism needs two.

    One more may have been begun: its ranks import and wait, with nothing loaded.
    Cores and cards are leased: for the life of the group where the device is exclusive, else while it computes
    (`computing`). Not thread-safe.
    """

    def __init__(self, size: int = 2, *, leases: Leases | None = None, progress: Progress | None = None) -> None:
        if size < 1:
            raise BadInput(f"pool of {size} groups: at least 1")
        self._size = size
        self._progress = progress
        self._live: OrderedDict[str, RankGroup] = OrderedDict()
        self._failed: dict[str, GenqualError | GroupLost] = {}  # why what never loaded cannot be
        self._loaded: set[str] = set()
        self._begun: RankGroup | None = None
        self._lent: frozenset[str] = frozenset()  # the leases of cores that the begun group imports on
        self._busy: frozenset[str] | set[str] = frozenset()
        self._owner = os.getpid()
        self.leases = Leases(progress=progress) if leases is None else leases
        atexit.register(self.close_all)

    def live(self, plan: GroupPlan) -> RankGroup | None:
        """The group of `plan` where it lives; starts none."""
        group = self._live.get(plan.key)
        return group if group is not None and group.alive else None

    def get(self, plan: GroupPlan) -> RankGroup:
        """Return the live group of `plan`, started now if need be. Raises what `RankGroup.start` raises.

        What cannot load is tried once: the next call for it raises the same error at once, and starts nothing. What has
        loaded before is tried again, unless it is Unsupported.
        """
        if self._begun is not None and self._begun.reported:
            self._give_back()  # it has imported, and waits: its cores are idle
        if plan.key in self._failed:
            raise self._failed[plan.key].with_traceback(None)
        group = self._live.pop(plan.key, None)
        if group is not None and not group.alive:
            self._end(group)
            group = None
        if group is None:
            self._make_room(plan)
            with self.computing(plan):
                try:
                    group = RankGroup.start(plan, self._progress, self._take_begun(plan))
                except (GenqualError, GroupLost) as reason:
                    if plan.key not in self._loaded or isinstance(reason, Unsupported):
                        self._failed[plan.key] = reason
                    raise
                self._loaded.add(plan.key)
                if plan.exclusive:
                    self.leases.take(plan.placement.lease)  # one count more than `computing`: kept until the end
        self._live[plan.key] = group
        return group

    def begin(self, plan: GroupPlan, spare: Placement) -> None:
        """Start the processes of a group that is wanted soon, on cores that nobody holds: `get` goes on with them.

        For when the present group is judged, not timed; one group at a time. Does nothing when `spare` is held, here or
        by another run, or when the device serves one process at a time. What fails there is told by `get`.
        """
        if self._begun is not None or plan.exclusive or plan.key in self._failed or self.live(plan):
            return
        if set(spare.lease) & self.leases.held or not self.leases.take(spare.lease, wait_s=0):
            return
        self._lent = frozenset(spare.lease)
        try:
            self._begun = RankGroup.begin(plan, spare.cores[0] if spare.cores else (), self._progress)
        except BaseException:
            self._give_back()
            raise

    def forget_begun(self) -> None:
        """End what was begun early: nothing may import beside a measurement."""
        group, self._begun = self._begun, None
        self._give_back()
        if group is not None:
            group.kill()

    def _take_begun(self, plan: GroupPlan) -> RankGroup | None:
        """The group of `plan`, if it was begun early."""
        if self._begun is None or self._begun.plan.key != plan.key:
            return None
        group, self._begun = self._begun, None
        self._give_back()
        return group

    def _give_back(self) -> None:
        lent, self._lent = self._lent, frozenset()
        self.leases.release(lent)

    @contextlib.contextmanager
    def computing(self, *plans: GroupPlan) -> Iterator[None]:
        """Hold the cores and cards of `plans` for a block, so that nobody else computes there.

        A nested block must not want more than the outer one (RuntimeError): it would wait while holding.
        """
        names = {name for plan in plans for name in plan.placement.lease}
        if self._busy and not names <= self._busy:
            raise RuntimeError(f"{plans[0].case} needs {sorted(names - self._busy)} while {sorted(self._busy)} are "
                               "held: name all plans in the outer `computing`")  # fmt: skip
        outer, self._busy = self._busy, self._busy | names
        try:
            with self._leased(names):
                yield
        finally:
            self._busy = outer

    @contextlib.contextmanager
    def _leased(self, names: set[str]) -> Iterator[None]:
        if not self.leases.take(names, wait_s=0):
            # Never wait while holding: two runs that each keep a card and wait for the other's would wait for ever.
            self.forget_begun()
            for key, group in list(self._live.items()):
                if group.plan.exclusive:
                    self._end(self._live.pop(key))
            if not self.leases.take(names):
                raise BadInput(f"waited {WAIT_S:.0f} s for {', '.join(sorted(names))}, which another run holds; "
                               "end it, or give this run other cores or cards")  # fmt: skip
        try:
            yield
        finally:
            self.leases.release(names)

    def drop(self, plan: GroupPlan) -> None:
        """End the group of `plan`, if it lives; the next `get` starts a fresh one."""
        group = self._live.pop(plan.key, None)
        if group is not None:
            self._end(group)

    def close_all(self) -> None:
        """End every group. At exit, at the end of a session, or on Ctrl-C; harmless twice."""
        if os.getpid() != self._owner:  # a fork inherited this pool, not its groups
            return
        self.forget_begun()
        while self._live:
            _, group = self._live.popitem()
            self._end(group)
        atexit.unregister(self.close_all)

    def _make_room(self, plan: GroupPlan) -> None:
        wanted = set(plan.placement.lease)
        for key, group in list(self._live.items()):
            clash = (plan.exclusive or group.plan.exclusive) and wanted & set(group.plan.placement.lease)
            if clash:
                self._end(self._live.pop(key))
        while len(self._live) >= self._size:
            _, oldest = self._live.popitem(last=False)
            self._end(oldest)

    def _end(self, group: RankGroup) -> None:
        try:
            group.close()
        finally:
            if group.plan.exclusive:
                self.leases.release(group.plan.placement.lease)
