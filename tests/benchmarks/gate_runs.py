"""Real runs of the gate's real command on many occasions: how often is it wrong, and how long does it take?

    python -m tests.benchmarks.gate_runs --minutes 20

Each call is one occasion. It builds the pinned commit in an environment of its own (once, kept in --state) and runs
`pytest --benchmark --gate` of llama-30m, TPOT, until the minutes are spent: by the file, then in pairs. Kinds of runs
are interleaved:

  same     the unchanged tree
  slower   with more work in each decode step, by the tolerance of the baseline's entry
  faster   the unchanged tree, against a baseline of a build with as much more work
  paired   with 3 % more work, which stage one leaves open, in a run that asks for it (--gate-tolerance 3%)

Runs are judged by a baseline that `genqual rebase` made on earlier occasions. Where it is not whole yet, a call first
makes one batch of six launches, some 90 s: three calls, a quarter of an hour or more apart, make the one of the
unchanged tree, the third to the fifth that of the build with more work. Then `faster` can be judged, too.
Each run is one line in docs/evidence/gate-runs/CLASS/, with its launches; commit what a call adds. Run it alone on the
host. Interrupt it at any time: a kill loses the run that is going on. --show writes the table, and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from platformdirs import user_state_path

from genqual.gate.baseline_file import Entry
from tests.benchmarks.gate_command import Gate, slowdown_environment
from tests.benchmarks.over_time.occasion import head, stamp
from tests.benchmarks.over_time.pinned_build import ROOT, Build, build
from tests.benchmarks.runs import page, record
from tests.benchmarks.runs.baselines import BASELINES, MORE_WORK, UNCHANGED, Shelf, advance
from tests.benchmarks.runs.rules import stages

PINNED: Final = "d7cfa7c38d7c30e37babe6fa0dc8025bdadbb424"
CASE: Final = ("--model=llama-30m", "--engine=transformers", "--dtype=bf16", "--ranks=1")
PACKAGES: Final = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy")
OBSERVED: Final = "observed"
INSIDE: Final = Path(__file__).with_name("runs") / "inside"
LONGEST_S: Final = 900.0  # of a run; what takes longer is ended, and kept as a bad one
THREE: Final = 0.03


@dataclass(frozen=True, slots=True)
class Kind:
    """Which build of the two does more work, by which baseline a run is judged, and what it asks for besides.

    `work` None: by the tolerance.
    """

    side: str
    baseline: str
    work: float | None
    asks: tuple[str, ...] = ()


KINDS: Final = {
    "same": Kind("", UNCHANGED, 0.0),
    "slower": Kind("now", UNCHANGED, None),
    "faster": Kind("then", MORE_WORK, None),
    "paired": Kind("now", UNCHANGED, THREE, (f"--gate-tolerance={THREE}",)),
}


@dataclass
class Occasion:
    """One call: where things are, and what all of its runs share."""

    pinned: Build
    state: Path
    place: Path  # of the class, in the record
    first: dict[str, Any]
    gate: Gate
    longest_s: float = 0.0

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.place, PINNED)

    def environment(self, side: str, work: float) -> dict[str, str]:
        """Of both commands: which build is slow, and by how much."""
        paths = os.pathsep.join((str(self.pinned.tree), str(INSIDE)))
        return slowdown_environment(work, self.state / "work") | {
            **{"PYTHONPATH": paths, "GENQUAL_TEST_SLOW_SIDE": side},
            "GENQUAL_CACHE": str(self.state / "cache"),
        }

    def baselines(self, names: Sequence[str]) -> dict[str, Entry]:
        """The baselines by which runs of this occasion can be judged; the next batch of those that are not whole."""
        found = {}
        for name in (one for one in BASELINES if one in names):
            more = self.shelf.entry(UNCHANGED) if name == MORE_WORK else None
            if name == MORE_WORK and more is None:  # how much work is more is not known yet
                continue
            if self.shelf.entry(name) is None:
                environment = self.environment("now" if more else "", more.tolerance or 0.0 if more else 0.0)
                advance(self.gate, self.shelf, name, environment, self.state / f"history-{name}", [OBSERVED], _say)
            entry = self.shelf.usable(name, time.time())
            if entry is not None:
                found[name] = entry
        return found

    def run(self, kind: str, entries: dict[str, Entry]) -> record.Run:
        """One run of the command, as the record has it."""
        asked, load = KINDS[kind], os.getloadavg()
        entry = entries[asked.baseline]
        work = float(entries[UNCHANGED].tolerance or 0.0) if asked.work is None else asked.work
        with tempfile.TemporaryDirectory(prefix="genqual-") as folder:
            seen = Path(folder) / "launches.jsonl"
            done = self.gate.judge(
                Path(folder) / "junit.xml",
                *("--gate", f"--baselines={self.shelf.folder(asked.baseline)}"),
                f"--state-dir={self.state / f'history-{kind}'}",
                *asked.asks,
                plugins=[OBSERVED],
                environment=self.environment(asked.side, work) | {"GENQUAL_TEST_LAUNCHES": str(seen)},
                timeout_s=LONGEST_S,
            )
            launches = _launches(seen)
        shared = {name: self.first[name] for name in ("commit", "class", "host", "boot", "versions")}
        unreported = {} if done.found is not None else {"output": done.output[-2000:]}
        said = {name: value for name, value in done.line().items() if name != "wall_s"}
        return {
            **{"kind": kind, "at": round(time.time(), 1), "when": datetime.now(UTC).isoformat(timespec="seconds")},
            **{"work": work, "side": asked.side, "load": [round(one, 2) for one in load]},
            **{"units": _units(self.state, work)},
            **{"exit": done.exit_code, **said, **unreported},
            "seconds": {"whole": round(done.wall_s, 1), **stages(launches)},
            **shared,
            "baseline": self.shelf.described(asked.baseline, entry),
            "launches": launches,
        }


def _launches(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _units(state: Path, work: float) -> int | None:
    """How much work `slow_engine` found to be so much of a step here."""
    files = list(state.glob(f"work-*-{work:.4f}")) if work else []
    return int(files[0].read_text()) if files else None


def collect(minutes: float, kinds: Sequence[str], occasion: Occasion) -> Path | None:
    """One occasion; returns its file, or None where nothing could be judged yet."""
    end = time.monotonic() + 60 * minutes
    path = occasion.place / f"{stamp(occasion.first)}.jsonl"
    entries = occasion.baselines(sorted({KINDS[kind].baseline for kind in kinds} | {UNCHANGED}))
    able = [kind for kind in kinds if KINDS[kind].baseline in entries and UNCHANGED in entries]
    for kind in kinds:
        if kind not in able:
            _say(f"{kind}: not on this occasion, its baseline ({KINDS[kind].baseline}) is not of an earlier one yet")
    if not able:
        return None
    count = 0
    for kind in record.order(len(record.runs(occasion.place.parent)), able):
        if time.monotonic() + occasion.longest_s >= end:
            break
        start = time.monotonic()
        made = occasion.run(kind, entries)
        record.append(path, made)
        occasion.longest_s = max(occasion.longest_s, time.monotonic() - start)
        count += 1
        _say(
            f"{count} {kind}: {made['verdict']} {made['estimate'] or ''} {len(made['launches'])} launches, "
            f"{made['seconds']['whole']:.0f} s, {max(0.0, end - time.monotonic()):.0f} s left: {made['message'][:120]}"
        )
    return path if count else None


def heed_signals() -> None:
    """Let SIGTERM and SIGINT end what runs, as Ctrl-C does.

    A shell that starts this in the background has SIGINT ignored; what this starts would ignore it, too, and `rebase`
    is interrupted by it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_runs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=20.0, help="of runs and of a batch (default: %(default)s)")
    made.add_argument("--kinds", default=",".join(KINDS), help="in turns (default: %(default)s)")
    made.add_argument("--record", type=Path, default=record.PLACE, help="another folder, to try this (default: docs)")
    made.add_argument(
        "--state", type=Path, default=user_state_path("genqual"), help="for the pinned build (default: %(default)s)"
    )
    made.add_argument("--show", action="store_true", help="write the table into the page, and measure nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser().error(f"--kinds {', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    if options.show:
        page.put(page.PAGE, page.text(record.runs(options.record)))
        print(page.text(record.runs(options.record)))
        return 0
    heed_signals()
    state = options.state.absolute()
    pinned = build(state, "gate-runs", PINNED, checkout=True)
    first = head(pinned, PINNED, PACKAGES)
    gate = Gate(CASE, str(pinned.python), pinned.tree)
    occasion = Occasion(pinned, state / "gate-runs", options.record.absolute() / str(first["class"]), first, gate)
    occasion.state.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(occasion.state).free
    if free < 1 << 30:
        raise SystemExit(f"{occasion.state} has {free >> 20} MiB left, and launches need a gigabyte")
    path = collect(options.minutes, kinds, occasion)
    if path is not None:
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        _say(f"added {shown}: commit it, and write the table with --show")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
