"""A live group of ranks as pytest holds it: start, call, close, and what follows when one falls. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final, NoReturn

from genqual.cases import Case, Json
from genqual.devices import cgroups
from genqual.engines.base import Loaded
from genqual.engines.hf import scratch
from genqual.errors import BadInput, EngineFailed, GenqualError, OutOfMemory, Unsupported
from genqual.ranks import diagnosis, processes
from genqual.ranks.codec import decode
from genqual.ranks.connections import Links, Reply
from genqual.ranks.errors import GroupLost
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.launchers import RankJob, exported, launcher, listen_address, rank_environment
from genqual.ranks.protocol import Arrays, ChannelError, Listener

Progress = Callable[[str], None]
_STATUSES: Final[Mapping[str, type[GenqualError]]] = {
    **{"Unsupported": Unsupported, "OutOfMemory": OutOfMemory, "BadInput": BadInput, "EngineFailed": EngineFailed},
    "Exception": EngineFailed,
}
_REFUSALS: Final = frozenset({"Unsupported", "BadInput"})
_ROOT: Final = Path("/")
POLL_S: Final = 0.2  # how often the launcher itself is looked at; answers are noticed at once
GRACE_S: Final = 3.0  # after the first error, for the other ranks to answer
REFUSAL_S: Final = 30.0  # for all of them to refuse to load, where one does: on a busy host they import for long
REACT_S: Final = 2.5  # after a death, for the launcher to stop the others
REPORT_S: Final = 6.0  # for it to report, once it does
CLOSE_S: Final = 15.0  # for an orderly exit
_WORDS: Final = 1000  # characters of what an engine said when it could not load
NEWS_S: Final = 15.0  # between progress messages


def _quiet(_: str) -> None:
    """Nobody wants to hear of progress."""


class RankGroup:
    """The processes of one `GroupPlan`, loaded and ready. Not thread-safe: one caller at a time."""

    BACKSTOP_S: ClassVar[float] = 20.0  # beyond a deadline a rank ends itself, should pytest be unable to

    def __init__(self, plan: GroupPlan, progress: Progress | None = None) -> None:
        self.plan = plan
        self.loaded: tuple[Loaded, ...] = ()
        self.mark = uuid.uuid4().hex
        self.logs = plan.logs.resolve() / f"{plan.case.id}-{self.mark[:8]}"
        self._progress = progress or _quiet
        self._links = Links(plan.case.ranks)
        self._process: subprocess.Popen[bytes] | None = None
        self._door: Listener | None = None
        self._launcher = launcher(plan.starter)
        self._oom = cgroups.oom_counter(_ROOT)
        self._ended = self._oom.read()  # processes that the kernel ended for want of memory, when all was well

    @classmethod
    def begin(cls, plan: GroupPlan, cores: Sequence[int], progress: Progress | None = None) -> RankGroup:
        """Launch what `start` will need: ranks that import their engine on `cores`, then wait for it."""
        group = cls(plan, progress)
        try:
            group._spawn({"module": plan.name(plan.implementation).partition(":")[0], "cores": list(cores)})
        except BaseException:
            group.kill()
            raise
        return group

    @classmethod
    def start(cls, plan: GroupPlan, progress: Progress | None = None, begun: RankGroup | None = None) -> RankGroup:
        """Launch, connect and load, or go on with what was `begun` of this plan.

        Raises GroupLost, or Unsupported, OutOfMemory, EngineFailed when loading did so.
        """
        group = begun or cls(plan, progress)
        try:
            if begun is None:
                group._spawn()
            group._admit()
            request: dict[str, Json] = {
                **{"implementation": plan.name(plan.implementation), "model": plan.model.as_json()},
                **{"dtype": plan.case.dtype, "device": plan.torch_device, "options": plan.options},
            }
            replies = group.call("load", request, deadline_s=plan.deadlines.call("load"))
            group.loaded = tuple(decode(Loaded, reply.value, reply.arrays) for reply in replies)
        except BaseException:
            group.kill()
            raise
        return group

    @property
    def alive(self) -> bool:
        """Whether calls may be made. A rank that died since the last call is found, and told, by the next one."""
        return self._process is not None

    @property
    def reported(self) -> bool:
        """Whether a rank of a group that was begun early knocks at the door: it has nothing left to do but wait."""
        return self._door is not None and self._door.connected

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids by rank; of ranks on other hosts, theirs."""
        return tuple(self._links.pids[rank] for rank in sorted(self._links.pids))

    def _spawn(self, ahead: dict[str, Json] | None = None) -> None:
        """Start the launcher; with `ahead`, its ranks prepare themselves as that says before they report."""
        plan = self.plan
        self.logs.mkdir(parents=True, exist_ok=True)
        job = RankJob(plan.case.ranks, self.logs, plan.hosts, plan.launcher_arguments, python=plan.python)
        self._door = door = Listener(listen_address(job))
        control = {
            processes.MARK: self.mark,
            "GENQUAL_CONTROL": f"{door.address[0]}:{door.address[1]}",
            "GENQUAL_AUTHKEY": door.key.hex(),
            "GENQUAL_LOGS": str(self.logs),
            "GENQUAL_BACKEND": plan.backend,
            **self._launcher.environment(job),
        }
        if ahead:
            control["GENQUAL_AHEAD"] = json.dumps(ahead)
        if plan.path:
            control["PYTHONPATH"] = os.pathsep.join([*plan.path, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = rank_environment(plan.placement, job, control)
        command = self._launcher.command(replace(job, exports=exported(environment)))
        with_ = "" if plan.starter == "none" else f" with {plan.starter}"
        when = ", ahead of its tests" if ahead else ""
        self._progress(f"{plan.case}: starting {job.ranks} rank(s){with_}{when}, logs in {self.logs}")
        with (self.logs / "launcher.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches pytest alone, which ends the group
            )

    def _admit(self) -> None:
        """Let every rank in. Raises GroupLost when one does not come."""
        seen = self._sighting("start", self.plan.deadlines.start())
        while self._door is not None and not self._links.complete:
            if self._exited or time.time() > seen.began + seen.deadline_s:
                self._lose(seen)
            self._links.admit(self._door, POLL_S, lambda text: self._progress(f"{self.plan.case}: {text}"))
        self._oom = cgroups.oom_counter(_ROOT, self.pids)  # a launcher may put ranks into groups of their own
        self._ended = self._oom.read()
        self._shut()

    def _shut(self) -> None:
        """Let nobody in any more."""
        if self._door is not None:
            self._door.close()
            self._door = None

    @property
    def _exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def _sighting(self, method: str, deadline_s: float) -> diagnosis.Sighting:
        case, several = self.plan.case, len(self.plan.hosts) > 1
        return diagnosis.Sighting(case.id, method, case.ranks, time.time(), deadline_s, several_hosts=several)

    def call(
        self,
        method: str,
        fields: Mapping[str, Json] | None = None,
        arrays: Arrays | None = None,
        *,
        deadline_s: float,
    ) -> tuple[Reply, ...]:
        """Send one request to all ranks and return their answers in rank order.

        Raises Unsupported, OutOfMemory, BadInput or EngineFailed when all ranks raised alike: the group lives on.
        Raises GroupLost when a rank died, gave no answer or fell out of step: the group is ended. Raises ChannelError,
        before anything is sent, when the request itself cannot cross.
        """
        if self._process is None:
            raise RuntimeError(f"{self.plan.case}: this group was ended; ask the pool for a live one")
        try:
            return self._exchange(method, dict(fields or {}), dict(arrays or {}), deadline_s)
        except (GenqualError, GroupLost, ChannelError):
            raise
        except BaseException:  # Ctrl-C in the middle of a call leaves the ranks out of step
            self.kill()
            raise

    def _exchange(self, method: str, fields: dict[str, Json], arrays: Arrays, deadline_s: float) -> tuple[Reply, ...]:
        seen = self._sighting(method, deadline_s)
        seen.idle = self._links.disturbed
        if not seen.idle:
            self._ended = self._oom.read()
        start = time.monotonic()
        backstop_s = deadline_s + self.BACKSTOP_S
        self._links.ask({"method": method, "fields": fields, "backstop_s": backstop_s}, arrays, seen)
        replies: dict[int, Reply] = {}
        limit, news = start + deadline_s, start + NEWS_S
        while len(replies) + len(seen.raised) < self._links.ranks and not (seen.fallen or self._exited):
            if time.monotonic() >= limit:
                break
            fell = bool(seen.raised)
            self._links.gather(seen, replies, max(0.0, min(POLL_S, limit - time.monotonic())))
            if seen.raised and not fell:
                limit = min(limit, time.monotonic() + _grace(seen))
            if time.monotonic() > news:
                news += NEWS_S
                said = processes.tail(self.logs / "rank0.log", lines=1)
                self._progress(f"{self.plan.case}: {method}, {time.monotonic() - start:.0f} s; rank 0 said: {said}")
        if len(replies) == self._links.ranks:
            return tuple(replies[rank] for rank in sorted(replies))
        if len(seen.raised) == self._links.ranks and len({error["kind"] for error in seen.raised.values()}) == 1:
            raise _status_error(self.plan.case, seen, self._file)
        seen.answered = set(replies)
        self._lose(seen)

    def _lose(self, seen: diagnosis.Sighting) -> NoReturn:
        """Collect every trace of what happened, end the group, raise GroupLost; as OutOfMemoryKilled where it was."""
        start = time.monotonic()
        self._links.gather(seen, {}, 0)
        if seen.several_hosts:
            self._links.find_unreachable(seen)
        while seen.gone and not self._exited:
            # A launcher that saw the death stops the others soon; one that saw nothing amiss has nothing to report.
            reacts = len(seen.gone) == self._links.ranks or len(seen.gone) > 1
            if time.monotonic() - start > (REPORT_S if reacts else REACT_S):
                break
            self._links.gather(seen, {}, POLL_S)
        here = {process.pid for process in processes.members(self.mark)}  # ranks on other hosts cannot be asked
        live = [rank for rank, pid in self._links.pids.items() if pid in here and rank not in seen.gone]
        processes.dump_stacks([self._links.pids[rank] for rank in live], [self._file(rank, "stack") for rank in live])
        seen.launcher = self.plan.starter
        seen.launcher_code = None if self._process is None else self._process.poll()
        seen.stacks = {rank: processes.tail(self._file(rank, "stack"), lines=80) for rank in range(seen.ranks)}
        self.kill()
        logs = [self._file(rank, "log") for rank in range(seen.ranks)]
        seen.logs = {rank: (str(file), processes.tail(file)) for rank, file in enumerate(logs)}
        seen.folder = str(self.logs)
        seen.launcher_log = processes.tail(self.logs / "launcher.log", lines=60)
        seen.exits = self._launcher.exits(processes.tail(self.logs / "launcher.log", lines=10_000, limit=1 << 20))
        seen.oom = self._memory_said()
        if self.plan.starter == "none" and seen.launcher_code is not None:
            seen.exits = {0: seen.launcher_code}
        raise diagnosis.lost(seen)

    def _memory_said(self) -> str:
        """What the kernel says, if its out-of-memory killer ended a process of the ranks' control group."""
        count = self._oom.rose(self._ended)
        if not count:
            return ""
        said = f"The kernel's out-of-memory killer ended {count} process(es) here"
        room = cgroups.memory_room(_ROOT)
        if room is None:
            return f"{said}: the memory ran out."
        return f"{said}: the control group's {room.file.name} is {room.limit / 2**20:,.0f} MiB."

    def _file(self, rank: int, suffix: str) -> Path:
        return self.logs / f"rank{rank}.{suffix}"

    def close(self) -> None:
        """Let the ranks leave in order; end them when they do not. Never raises because of a rank."""
        if self._process is None:
            return
        left = False
        try:
            self._exchange("shutdown", {}, {}, CLOSE_S)
            if not self.plan.exclusive:
                left = True  # nothing of theirs outlives them: a second and a half of tearing down torch helps nobody
                return
            if code := self._process.wait(CLOSE_S):
                self._progress(
                    f"{self.plan.case}: {self.plan.starter} {diagnosis.describe_exit(code)}, see {self.logs}"
                )
        except (GenqualError, GroupLost, subprocess.TimeoutExpired) as error:
            self._progress(f"the group did not leave in order: {str(error).splitlines()[0]}")
        finally:
            self.kill(politely=not left)

    def kill(self, *, politely: bool = True) -> None:
        """End every process of the group now, SIGTERM first if `politely`. At any time, more than once."""
        self._shut()
        if self._process is None:
            return
        survivors = processes.end(self._process, self.mark, politely=politely)
        for folder in scratch.sweep(self.logs):
            self._progress(f"{self.plan.case}: {folder} holds offloaded weights and could not be removed")
        self._links.close()
        self._process = None  # only now: a second Ctrl-C in between leaves the work to the next call
        if survivors:
            self._progress(f"{self.plan.case}: processes {survivors} survived SIGKILL (uninterruptible, see `ps`)")


def _grace(seen: diagnosis.Sighting) -> float:
    """How long the other ranks may take to answer once one of them has raised."""
    refused = seen.method == "load" and {str(error["kind"]) for error in seen.raised.values()} <= _REFUSALS
    return REFUSAL_S if refused else GRACE_S


def _status_error(case: Case, seen: diagnosis.Sighting, file: Callable[[int, str], Path]) -> GenqualError:
    """What all ranks raised alike, as the caller gets it."""
    rank, first = min(seen.raised.items(), key=lambda item: float(str(item[1]["at"])))
    kind, said = str(first["kind"]), str(first["message"])
    where = f"(`{seen.method}`, rank {rank} first, every rank alike)"
    frames = [line for line in str(first["traceback"]).splitlines() if line.lstrip().startswith("File ")]
    if kind == "Exception" and seen.method == "load":
        # Of the engine's own words the first are enough; some list every tensor.
        words = " ".join(f"{first['type']}: {said}".split())
        said = f"loading failed: {words[:_WORDS]}{'...' if words[_WORDS:] else ''} {where}"
        made: GenqualError = EngineFailed(f"{case}: {said}. Traceback: {file(rank, 'log')}")
    elif kind == "Exception":
        said = f"{first['type']}: {said}"
        made = EngineFailed(f"{case}: {said} {where}\n{first['traceback']}")
    else:
        made = _STATUSES[kind](f"{case}: {said} {where}")
    made.cause = f"{case}: {first['type']}: {first['message']} {frames[-1:]}"
    return made
