"""From what was seen of a lost group to the one failure that came first. Pure: the standard library only."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

from genqual.cases import Json
from genqual.ranks.errors import GroupLost, OutOfMemoryKilled, RankState

# A death is seen when its socket closes, up to this long after peers may have raised because of it.
LAG_S = 1.0
# Where a rank waits for its peers; in a stack, one of these tells a victim from a culprit.
_COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/", "/habana_frameworks/torch/distributed/")


@dataclass(slots=True)
class Sighting:
    """What the controller saw. Times are `time.time()` seconds; dictionaries are keyed by rank."""

    case: str
    method: str
    ranks: int
    began: float
    deadline_s: float
    idle: bool = False  # the failure was there before the request was sent
    raised: dict[int, Mapping[str, Json]] = field(default_factory=dict)
    gone: dict[int, float] = field(default_factory=dict)
    answered: set[int] = field(default_factory=set)
    broken: dict[int, str] = field(default_factory=dict)  # what it did to the protocol, a predicate
    unreachable: dict[int, str] = field(default_factory=dict)  # what its host does, and what the kernel says
    several_hosts: bool = False
    exits: Mapping[int, int] = field(default_factory=dict)
    folder: str = ""  # of all logs
    launcher: str = ""
    launcher_code: int | None = None  # None: it still ran
    launcher_log: str = ""
    oom: str = ""  # what the kernel says of memory, where its killer ended a process of the group meanwhile
    logs: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # path, last lines
    stacks: Mapping[int, str] = field(default_factory=dict)

    @property
    def fallen(self) -> set[int]:
        """Ranks from which no answer can come any more."""
        return {*self.gone, *self.broken, *self.unreachable}


def describe_exit(code: int) -> str:
    """Say an exit code in words; a negative one is a signal, as subprocess has it."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def states(seen: Sighting) -> list[RankState]:
    """Say of every rank what became of it, in rank order."""
    return [_state(seen, rank) for rank in range(seen.ranks)]


def _state(seen: Sighting, rank: int) -> RankState:
    log, tail = seen.logs.get(rank, ("", ""))
    stack = seen.stacks.get(rank, "")
    if rank in seen.raised:
        error = seen.raised[rank]
        raised_at = float(str(error["at"])) - seen.began
        what = f"raised {error['type']}: {error['message']}"
        kind, detail = str(error["kind"]), str(error["traceback"])
        return RankState(rank, "raised", what, raised_at, kind=kind, detail=detail, log=log)
    if rank in seen.unreachable:
        what = f"cannot be reached any more ({seen.unreachable[rank]})"
        return RankState(rank, "unreachable", what, log=log, log_tail=tail, stack=stack)
    if rank in seen.broken:
        return RankState(rank, "died", seen.broken[rank], log=log, log_tail=tail, stack=stack)
    code = seen.exits.get(rank)
    if rank in seen.gone or (code is not None and seen.launcher_code is not None):
        at = seen.gone[rank] - seen.began if rank in seen.gone else None
        others_fell = bool(seen.raised) or any(exit_ != -signal.SIGTERM for exit_ in seen.exits.values())
        if code == -signal.SIGTERM and others_fell:
            return RankState(rank, "stopped", "was stopped by the launcher", at, log=log, log_tail=tail, stack=stack)
        what = "ended without a reported failure" if code is None else describe_exit(code)
        return RankState(rank, "died", what, at, code=code, log=log, log_tail=tail, stack=stack)
    if rank in seen.answered:
        return RankState(rank, "answered", "answered", log=log)
    return RankState(rank, "silent", "gave no answer", log=log, log_tail=tail, stack=stack)


def first_failure(all_states: list[RankState]) -> RankState | None:
    """The earliest failure, or the one silent rank that the others wait for; None when no rank stands out.

    Of failures seen at nearly the same time, a reported death goes before an unreported one (which the launcher may
    have caused), and that before an error (which a peer's death may have caused).
    """

    def moment(state: RankState) -> float:
        at = 0.0 if state.at_s is None else state.at_s
        if state.fate == "raised":
            return at
        return at - (LAG_S / 2 if state.code is None else LAG_S)

    # Nobody notices a cut link sooner than the kernel, so what peers did meanwhile was its consequence.
    if apart := [state for state in all_states if state.fate == "unreachable"]:
        return apart[0]
    fallen = [state for state in all_states if state.fate in ("died", "raised")]
    if fallen:
        return min(fallen, key=moment)
    silent = [state for state in all_states if state.fate == "silent"]
    alone = [state for state in silent if not any(place in state.stack for place in _COLLECTIVES)]
    for suspects in (alone, silent):
        if len(suspects) == 1:
            return suspects[0]
    return None


def _may_be_killed(seen: Sighting, root: RankState | None) -> bool:
    """Whether what fell first fell by SIGKILL, as far as is told: a rank, or the launcher where no rank stands out."""
    if root is None:
        return seen.launcher_code == -signal.SIGKILL
    return root.fate == "died" and seen.exits.get(root.rank, -signal.SIGKILL) == -signal.SIGKILL


def _of_links(every: list[RankState]) -> str:
    if all(state.fate == "unreachable" for state in every):
        return " No other rank can be reached either: this host's own link may be cut."
    return " Its link is cut, or its host is down: what runs there ends itself."


def lost(seen: Sighting) -> GroupLost:
    """Word it: the root first, then the rest."""
    every = states(seen)
    root = first_failure(every)
    if root is not None and root.fate == "silent" and seen.launcher_code is not None:
        root = None  # the launcher went first, and nobody waited for an answer any more
    when = f"between calls, found by `{seen.method}`" if seen.idle else f"during `{seen.method}`"
    if root is None:
        silent = ", ".join(str(state.rank) for state in every if state.fate == "silent")
        cause = f"ranks {silent} gave no answer" if silent else "the group ended"
        if seen.launcher_code is not None:
            cause = f"the launcher {seen.launcher} {describe_exit(seen.launcher_code)}"
    else:
        cause = f"rank {root.rank} {root.what}" if seen.idle else str(root)
    hint = ""
    killed = bool(seen.oom) and _may_be_killed(seen, root)
    if killed:
        hint = f" {seen.oom} Use a smaller batch, shorter inputs, another dtype, more ranks, or more memory."
    elif root is not None and root.fate == "unreachable":
        hint = _of_links(every)
    elif root is None or root.fate == "silent":
        when += f", deadline {seen.deadline_s:g} s"
        if root is not None and any(state.fate == "silent" and state is not root for state in every):
            hint = " The other ranks wait in a collective."
        if root is None and seen.several_hosts and seen.launcher_code is None:
            hint = " Every host can be reached: a rank hangs, or a link between hosts is cut; see its log there."
    elif root.fate == "died" and seen.exits.get(root.rank) == -signal.SIGKILL:
        hint = " SIGKILL is what the kernel's out-of-memory killer sends: see `dmesg`."
    elif root.fate == "raised" and any(state.fate == "answered" for state in every):
        hint = " Others answered, so the ranks are out of step."
    after = "" if seen.method in ("start", "load") else ", the next call starts a fresh one"
    headline = f"{seen.case}: {cause} ({when}).{hint} The group was ended{after}."
    explained = root is not None and (root.fate != "died" or root.rank in seen.exits)
    waited = seen.launcher_code is None and (root is None or root.fate == "silent")
    kind = OutOfMemoryKilled if killed else GroupLost
    return kind(
        f"{headline} Logs: {seen.folder}",
        root,
        every,
        "" if explained else seen.launcher_log,
        timed_out=waited and any(state.fate == "silent" for state in every),
    )
