"""A real level of the node's checks by pytest, killed with -9 within three checks, and resumed each time.

    python -m tests.health.killed_level --level 3 --state FOLDER

Takes the level's time and that of what was cut off: some 20 minutes for level 3. Prints the verdict of each check, and
exits 0 where the last run, which was not killed, ended as an undisturbed one of a healthy host: every check passed, but
for those that the level has no time for, and each that ended before a kill did not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from genqual.health.levels import CHECKS, SECONDS, Level
from genqual.session.node_items import unfinished
from tests.here import CPU

ROOT = Path(__file__).resolve().parents[2]
KILLED = ("known_answers", "repeats", "rank_steps")


def main(arguments: list[str]) -> int:
    """Kill, resume, and compare."""
    parser = argparse.ArgumentParser("python -m tests.health.killed_level", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--level", choices=sorted(SECONDS), default="3")
    parser.add_argument("--within", type=float, default=20.0, help="seconds into each check")
    parser.add_argument("--state", type=Path, required=True, help="a new folder")
    options = parser.parse_args(arguments)
    words = [sys.executable, "-m", "pytest", "--pyargs", "genqual.suites.qualification", "-m",
             f"{CPU} and qualification", "--level", options.level, "--no-upload", "-v", "--color=no",
             "-p", "no:cacheprovider", f"--state-dir={options.state}"]  # fmt: skip
    more: list[str] = []
    for name in KILLED:
        before = _ended(options.state)
        _killed(words + more, unfinished(options.state) / f"{CPU}-{name}.json", options.within)
        print(f"killed within {name}", flush=True)
        now = _ended(options.state)
        if any(now.get(file) != found for file, found in before.items()):
            print(f"a check that had ended ran again: {sorted(before)}")
            return 1
        more = ["--resume"]
    last = subprocess.run(words + more, cwd=ROOT, capture_output=True, text=True, check=False)
    said = dict(re.findall(rf"\[{CPU}-(\w+)\] (PASSED|FAILED|NOT APPLICABLE)", last.stdout))
    print(said, f"exit status {last.returncode}")
    fitting = {one.name for one in Level(options.level, SECONDS[options.level]).fitting(CHECKS)}
    expected = {one.name: "PASSED" if one.name in fitting else "NOT APPLICABLE" for one in CHECKS}
    if said != expected:
        print(last.stdout[-4000:], last.stderr[-2000:])
    return int(said != expected or last.returncode != 0)


def _ended(state: Path) -> dict[str, Any]:
    """The findings of each check that has ended, by its file; their seconds tell one run of it from another."""
    kept = {file.name: json.loads(file.read_text())["checks"] for file in unfinished(state).glob("*.json")}
    return {name: checks for name, checks in kept.items() if checks}


def _killed(words: list[str], begun: Path, seconds: float) -> None:
    """Run, and kill so many seconds after the check that keeps its findings in `begun` has begun."""
    run = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not begun.exists():
            if run.poll() is not None:
                sys.exit(f"it ended with {run.returncode} before {begun.name}")
            time.sleep(0.2)
        time.sleep(seconds)
        children = psutil.Process(run.pid).children(recursive=True)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    left = psutil.wait_procs(children, timeout=20.0)[1]
    if left:
        sys.exit(f"{len(left)} processes were left: {left}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
