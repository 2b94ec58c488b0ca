"""The baselines that runs are judged by: `genqual rebase` of the pinned build, a batch an occasion, kept in the record.

`rebase` goes on after an interruption, and that is used: each call makes the launches of one batch and ends in the
pause after it, so a baseline of three occasions takes a few minutes of each. What is done lies in the record, so
another machine of the class can go on with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from genqual.gate import baseline_file
from genqual.gate.baseline_file import Entry
from genqual.gate.drift import OCCASION_S
from tests.benchmarks.gate_command import Gate, started

PAUSE: Final = "1800"  # seconds between batches; never waited for


UNCHANGED: Final = "unchanged"
MORE_WORK: Final = "more-work"
BASELINES: Final = (UNCHANGED, MORE_WORK)
"""Names of the baselines, in the order in which they are made: the first one says how much work is more."""

LAUNCHES: Final = 18
OCCASIONS: Final = 3  # of them, as many batches: the least that tell drift


@dataclass(frozen=True, slots=True)
class Shelf:
    """The baselines of one class and commit, below the record."""

    place: Path
    commit: str

    def folder(self, name: str) -> Path:
        return self.place / "baselines" / f"{self.commit[:12]}-{name}"

    def unfinished(self, name: str) -> Path:
        """What `rebase` keeps of launches until a baseline is whole."""
        return self.folder(name) / "rebase"

    def entry(self, name: str) -> Entry | None:
        """The entry of a whole baseline. Raises BadInput where the file is damaged."""
        for path in self.folder(name).glob("*.json"):
            (entry,) = baseline_file.read(path).entries.values()
            return entry
        return None

    def usable(self, name: str, now: float) -> Entry | None:
        """The entry of a baseline that is whole, all of it made on earlier occasions than `now`, seconds since 1970."""
        entry = self.entry(name)
        return entry if entry is not None and now - entry.provenance.date.timestamp() > OCCASION_S else None

    def described(self, name: str, entry: Entry) -> dict[str, Any]:
        """What a run's line says of the baseline that judged it: enough to ask other rules without the file."""
        drift = entry.drift
        return {
            **{"name": name, "digest": entry.digest, "tolerance": entry.tolerance},
            "drift": None if drift is None else {"sd": drift.sd, "freedom": drift.freedom},
            "occasions": None if drift is None else list(drift.occasions),
            "made": entry.provenance.date.isoformat(timespec="seconds"),
            "z": [one.z for one in entry.launches],
            "batch": [one.batch for one in entry.launches],
            "step_s": _last_steps(self.folder(name) / "launches.jsonl"),
        }

    def last_batch(self, name: str) -> float:
        """When the last launch of an unfinished baseline ended, seconds since 1970; 0 where there is none."""
        times = [0.0]
        for path in self.unfinished(name).glob("*.jsonl"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                times.append(float(json.loads(line).get("at", 0.0)))
        return max(times)


def _last_steps(path: Path) -> dict[str, float] | None:
    """What the rules of others compare with: the steps of the last launch of the baseline."""
    found = [json.loads(line)["step_s"] for line in path.read_text().splitlines()] if path.is_file() else []
    return next((steps for steps in reversed(found) if steps), None)


def advance(
    gate: Gate,
    shelf: Shelf,
    name: str,
    environment: dict[str, str],
    state: Path,
    plugins: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Make the next batch of a baseline. Raises SystemExit where that failed.

    `environment` names the cache; its folder of unfinished work is made the record's. Nothing is made where the last
    batch is of this occasion.
    """
    cache, unfinished = Path(environment["GENQUAL_CACHE"]), shelf.unfinished(name)
    left = shelf.last_batch(name) + OCCASION_S - time.time()
    if left > 0:
        say(f"baseline {name}: a batch of it is of this occasion; the next one can be made in {left / 60:.0f} minutes")
        return
    unfinished.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    link = cache / "rebase"
    if link.is_symlink() and link.readlink() != unfinished:
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(unfinished, target_is_directory=True)
    folder = shelf.folder(name)
    command = gate.rebase(
        folder,
        *("--launches", str(LAUNCHES), "--batches", str(OCCASIONS), "--pause", PAUSE, "--state-dir", str(state)),
        *("--author", "gate_runs", "--commit", shelf.commit),
        plugins=plugins,
    )
    given = {**environment, "GENQUAL_TEST_LAUNCHES": str(folder / "launches.jsonl")}
    paused = until_pause(command, gate.tree, given)
    if paused:
        say(f"baseline {name}: a batch is made; {OCCASIONS} occasions are needed")
    elif shelf.entry(name) is None:
        raise SystemExit(f"baseline {name}: `genqual rebase` made none; see above")
    else:
        say(f"baseline {name}: made")


def until_pause(command: Sequence[str], tree: Path, environment: dict[str, str]) -> bool:
    """Run `rebase` until it ends or pauses between batches, where it is interrupted as by Ctrl-C; whether it paused."""
    paused = False
    unbuffered = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
    with started(command, tree, unbuffered) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("pause of ") and not paused:
                    paused = True
                    process.send_signal(signal.SIGINT)
                elif not paused:
                    print(line, end="", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
    return paused
