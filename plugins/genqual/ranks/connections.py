"""The controller's connections to the ranks of one group: let them in, ask all, gather answers. Ends no process."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final, cast

from numpy.typing import NDArray

from genqual.cases import Json
from genqual.ranks.diagnosis import Sighting
from genqual.ranks.protocol import PROTOCOL, SILENT_S, Arrays, ChannelError, Listener, Message, receive, send

# What the kernel says of a connection whose peer acknowledges nothing. A peer that ended closes or resets its own.
_UNREACHABLE: Final = frozenset(
    (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENONET)
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One rank's answer; `t_start` and `t_end` are seconds on its monotonic clock."""

    rank: int
    value: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    t_start: float
    t_end: float


class Links:
    """A control connection a rank, and a silent side connection whose end is the rank's end (see `worker.tether`)."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.pids: dict[int, int] = {}
        self.hosts: dict[int, str] = {}  # names, by rank
        self._roles: dict[tuple[int, str], Connection] = {}
        self._number = 0

    @property
    def complete(self) -> bool:
        return len(self._roles) == 2 * self.ranks

    def admit(self, door: Listener, timeout_s: float, complain: Callable[[str], None]) -> None:
        """Let in the next caller, if one comes within `timeout_s`; a caller who is no rank of ours is sent away."""
        refused = door.refused
        caller = door.accept(timeout_s)
        if caller is None:
            if door.refused > refused:
                complain("refused a caller without the key")
            return
        try:
            hello = cast(dict[str, Any], receive(caller).fields)
            rank, role = int(hello["rank"]), str(hello["role"])
            known = 0 <= rank < self.ranks and role in ("control", "side") and (rank, role) not in self._roles
            if not known or (hello["protocol"], hello["world_size"]) != (PROTOCOL, self.ranks):
                raise ChannelError(f"{hello}: this is a group of {self.ranks} with protocol {PROTOCOL}")
            self.pids[rank], self.hosts[rank] = int(hello["pid"]), str(hello.get("host", "unknown"))
        except (ChannelError, EOFError, OSError, KeyError, TypeError, ValueError) as error:
            caller.close()
            complain(f"refused a caller: {error!r}")
            return
        self._roles[rank, role] = caller

    @property
    def disturbed(self) -> bool:
        """Whether something came although nothing was asked: an end of file, as a rule."""
        return bool(wait([self._control(rank) for rank in range(self.ranks)], 0))

    def ask(self, request: dict[str, Json], arrays: Arrays, seen: Sighting) -> None:
        """Send one request to every rank. Raises ChannelError, before anything is sent, when it cannot cross."""
        self._number += 1
        message = Message({**request, "id": self._number}, dict(arrays))
        for rank in range(self.ranks):
            try:
                send(self._control(rank), message)
            except BlockingIOError:
                seen.broken[rank] = "stopped reading in the middle of the request"
            except OSError as error:
                self._fell(rank, error, seen)

    def gather(self, seen: Sighting, replies: dict[int, Reply], timeout_s: float) -> None:
        """Read what comes within `timeout_s`, into `replies` or `seen`, from ranks that have not answered yet."""
        done = replies.keys() | seen.raised.keys() | seen.fallen
        waiting = {self._control(rank): rank for rank in range(self.ranks) if rank not in done and self.complete}
        for ready in wait(list(waiting), timeout_s):
            connection = cast(Connection, ready)
            rank = waiting[connection]
            try:
                message = receive(connection)
            except BlockingIOError:
                seen.broken[rank] = "stopped writing in the middle of its answer"
                continue
            except (EOFError, OSError) as error:
                self._fell(rank, error, seen)
                continue
            except ChannelError as error:
                seen.broken[rank] = f"sent {error}"
                continue
            answer = cast(dict[str, Any], message.fields)
            if answer.get("id") != self._number:
                seen.broken[rank] = f"sent an answer to request {answer.get('id')} instead of {self._number}"
            elif answer["ok"]:
                times = answer.get("t_start", 0.0), answer.get("t_end", 0.0)
                replies[rank] = Reply(rank, answer["value"], message.arrays, *times)
            else:
                seen.raised[rank] = answer

    def find_unreachable(self, seen: Sighting) -> None:
        """Give the kernel time to find a cut link: what else is seen of a group on several hosts may follow from it."""
        late: dict[int, Reply] = {}  # answers that nobody waits for any more
        limit = time.monotonic() + SILENT_S + 1
        while self.complete and not seen.unreachable and (left := limit - time.monotonic()) > 0:
            if len(seen.fallen | seen.raised.keys() | seen.answered | late.keys()) == self.ranks:
                return
            self.gather(seen, late, left)

    def _fell(self, rank: int, error: EOFError | OSError, seen: Sighting) -> None:
        """Say of a connection that broke whether the rank ended or cannot be reached."""
        code = getattr(error, "errno", None)
        if code in _UNREACHABLE:
            seen.unreachable[rank] = f"its host {self.hosts[rank]} answers nothing: {os.strerror(code)}"
        else:
            seen.gone[rank] = time.time()

    def close(self) -> None:
        """Hang up. Ranks that still live are ended by their kernel: on this host or on others."""
        for connection in self._roles.values():
            connection.close()
        self._roles.clear()

    def _control(self, rank: int) -> Connection:
        return self._roles[rank, "control"]
