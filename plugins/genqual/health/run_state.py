"""What a run of `genqual node` has found so far, on disk: for `--resume` after a kill. Whole files or none."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from genqual.atomic import write_whole
from genqual.errors import BadInput
from genqual.health.finding import Finding


class Kept(BaseModel):
    """Findings of every check that ended, by its name, and what the run was of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: dict[str, str]
    began: datetime
    seconds: float = 0.0
    checks: dict[str, tuple[Finding, ...]] = {}
    window: dict[str, Any] | None = None  # counters when the check that was cut off began


class RunState:
    """The file of one run. `run` says what makes two runs the same: level, device, cores, boot, version.

    A check counts when its findings are whole on disk; one that was cut off runs again from its beginning.
    """

    def __init__(self, path: Path, run: dict[str, str], *, resume: bool) -> None:
        self.path, self.run, self._resume = path, run, resume
        self._kept: Kept | None = None

    def begin(self, now: datetime) -> Kept:
        """What is there to go on with; empty for a new run, which then replaces what was there.

        Raises BadInput where there is nothing to resume, where it cannot be read, and where it was another run's.
        """
        self._kept = self._read() if self._resume else Kept(run=self.run, began=now)
        self._write()
        return self._kept

    def check(self) -> None:
        """Raises BadInput, as `begin` does, where there is nothing to go on with; writes nothing."""
        self._read()

    def keep(self, check: str, findings: Iterable[Finding], seconds: float, window: dict[str, Any]) -> None:
        """Add the findings of a check that ended, durably; `seconds` of the whole run so far.

        `window` is that of the next check: what the hardware counts while it runs is not lost when it is cut off.
        """
        checks = {**self._known.checks, check: tuple(findings)}
        self._kept = self._known.model_copy(update={"checks": checks, "seconds": seconds, "window": window})
        self._write()

    def opened(self, window: dict[str, Any]) -> None:
        """Note the window of the first check, durably."""
        self._kept = self._known.model_copy(update={"window": window})
        self._write()

    @property
    def _known(self) -> Kept:
        if self._kept is None:
            raise RuntimeError("`begin` comes first")
        return self._kept

    def end(self) -> None:
        """The verdict is out: nothing is left to resume."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> Kept:
        try:
            kept = Kept.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            raise BadInput(f"--resume: {self.path} is not there: no run was interrupted; leave --resume out") from None
        except (OSError, ValidationError) as error:
            raise BadInput(f"--resume: {self.path} cannot be read ({error}); delete it and start anew") from None
        differing = [name for name in {**kept.run, **self.run} if kept.run.get(name) != self.run.get(name)]
        if differing:
            said = "; ".join(f"{name} {kept.run.get(name)} then, {self.run.get(name)} now" for name in differing)
            raise BadInput(f"--resume: {self.path} is of another run ({said}); give the same, or leave --resume out")
        return kept

    def _write(self) -> None:
        write_whole(self.path, self._known.model_dump_json().encode())
