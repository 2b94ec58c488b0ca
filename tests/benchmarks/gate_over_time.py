"""Launches of one pinned commit, over hours, boots and hosts: how much does the gate's number drift?

    python -m tests.benchmarks.gate_over_time --minutes 12

Each call is one occasion. It builds the pinned commit in an environment of its own (once, kept in --state), starts
fresh processes until the minutes are spent, and appends every launch to docs/evidence/gate-over-time/CLASS/: raw step
times of the candidate and of eight controls, in fp32 and bf16, unchanged and with 5 % more work. Run it alone on the
host, hours apart, and commit what it adds. --report says what the whole record shows, and measures nothing.

Interrupt it at any time: launches that are done are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from platformdirs import user_state_path

from tests.benchmarks.over_time import record, report
from tests.benchmarks.over_time.occasion import head, stamp
from tests.benchmarks.over_time.pinned_build import ROOT, build

PINNED: Final = "86ce22acc583802fa214ff5878a83b913a29a4a4"
PARTS: Final = Path(__file__).with_name("over_time")
VERSION: Final = 1  # of the lines; another one for another order of steps or set of controls


def collect(minutes: float, dtypes: str, state: Path) -> Path:
    """One occasion; returns its file."""
    state.mkdir(parents=True, exist_ok=True)
    pinned = build(state, "gate-over-time", PINNED)
    python, tree = pinned.python, pinned.tree
    first = {"version": VERSION, **head(pinned, PINNED, ("torch", "transformers", "numpy"))}
    path = record.PLACE / str(first["class"]) / f"{stamp(first)}.jsonl.gz"
    command = [
        *(str(python), str(PARTS / "pinned.py"), "--minutes", str(minutes), "--dtypes", dtypes),
        *("--work", str(state / "gate-over-time.work")),
    ]
    # The pinned tree's tests hold the engine with more work; its plugins are installed in its environment.
    paths = [str(PARTS), str(tree)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    began, count = time.monotonic(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tree) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not count:
                record.append(path, first)
            launch = json.loads(line)
            record.append(path, launch)
            count += 1
            left = 60 * minutes - (time.monotonic() - began)
            print(f"{report.line(launch)}, {max(0.0, left):.0f} s left", file=sys.stderr, flush=True)
    if process.returncode or not count:
        raise SystemExit(f"the pinned build ended with {process.returncode} after {count} launches; see above")
    return path


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_over_time", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=12.0, help="of launches (default: %(default)s)")
    made.add_argument("--dtypes", default="fp32,bf16", help="in turns (default: %(default)s)")
    made.add_argument(
        "--state", type=Path, default=user_state_path("genqual"), help="for the pinned build (default: %(default)s)"
    )
    made.add_argument("--report", action="store_true", help="print what the record shows, and measure nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.minutes <= 0:
        parser().error(f"--minutes {options.minutes}: at least one launch needs about half a minute")
    if not options.report:
        path = collect(options.minutes, options.dtypes, options.state.absolute())
        print(f"added {path.relative_to(ROOT)}: commit it", file=sys.stderr)
    print(report.text(record.occasions()))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
