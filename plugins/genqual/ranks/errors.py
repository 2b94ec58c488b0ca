"""What a lost rank group tells: the first failure, then every other rank. Pure: the standard library, and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from genqual.errors import OutOfMemory

Fate = Literal["died", "raised", "silent", "answered", "stopped", "unreachable"]
"""`stopped`: ended by the launcher because another rank had failed; `silent`: alive, no answer in time.

`unreachable`: its host's kernel answers nothing, so nobody knows whether it lives.
"""


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank when its group was lost. `at_s` is seconds after the request, None where nothing happened."""

    rank: int
    fate: Fate
    what: str  # a predicate: "was killed by SIGKILL", "raised ValueError: ..."
    at_s: float | None = None
    code: int | None = None  # its exit code where the launcher reported one; a signal is negative
    kind: str = ""  # of a raised error: Unsupported, OutOfMemory, BadInput, Exception
    detail: str = ""  # its traceback
    log: str = ""  # where its output went
    log_tail: str = ""
    stack: str = ""  # every thread, as faulthandler wrote it

    def __str__(self) -> str:
        when = "" if self.at_s is None else f" {max(self.at_s, 0.0):.1f} s after the request"
        return f"rank {self.rank} {self.what}{when}"


class GroupLost(BaseException):
    """A rank exited, hangs or is out of step; the whole group was ended, the next call gets a fresh one.

    A BaseException, so that Hypothesis stops at once instead of shrinking; pytest reports it as an ordinary failure.
    `root` is the earliest failure (None when no rank can be blamed), `states` has every rank. `timed_out`: nothing
    fell, and a rank gave no answer before the deadline.
    """

    def __init__(
        self,
        headline: str,
        root: RankState | None,
        states: Sequence[RankState] = (),
        launcher: str = "",
        *,
        timed_out: bool = False,
    ) -> None:
        self.headline = headline
        self.root = root
        self.states = tuple(states)
        self.launcher = launcher
        self.timed_out = timed_out
        super().__init__(self._text())

    def _text(self) -> str:
        first = [] if self.root is None else [self.root]
        others = [state for state in self.states if state is not self.root]
        parts = [self.headline, *(str(state) for state in others)]
        for state in (*first, *others):
            for title, body in (("traceback", state.detail), ("stack", state.stack), ("log", state.log_tail)):
                if body.strip():
                    where = f" ({state.log})" if title == "log" else ""
                    parts.append(f"--- rank {state.rank}: {title}{where}\n{body.strip()}")
        if self.launcher.strip():
            parts.append(f"--- launcher\n{self.launcher.strip()}")
        return "\n".join(parts)


class OutOfMemoryKilled(GroupLost, OutOfMemory):
    """The kernel's out-of-memory killer ended a rank: the group is lost, and the outcome is that memory ran out."""
