"""Which faults of a list does each level of `genqual node` find, within the time that the level gives its checks?

    python -m tests.benchmarks.node_levels --levels 1,2 --resume FILE
    python -m tests.benchmarks.node_levels --levels 3 --resume FILE --missed

Each fault is put into the checks that could see it, and only these run, for the seconds that the level gives them.
--missed leaves out what a shorter level in FILE has found by the same checks: a longer one only gives them more time.
Run it alone on the host: slow cores and ranks are told by CPU time, which others' use of caches disturbs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genqual.devices.registry import processor
from genqual.health import levels
from genqual.health.checks.base import Check, Node
from genqual.health.finding import Outcome
from tests.benchmarks.node_levels.fault_list import FAULTS, Cores, LevelFault

ROOT = Path(__file__).resolve().parents[3]
Result = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Print the table; exit 2 on a level or fault that there is not."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.node_levels", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--levels", default="1,2")
    parser.add_argument("--faults", default="", help="only these, such as weight,cache")
    parser.add_argument("--missed", action="store_true", help="only what no shorter level has found")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep results there, and go on from it")
    options = parser.parse_args(arguments)
    wanted = options.faults.split(",") if options.faults else [one.name for one in FAULTS]
    names = options.levels.split(",") if options.levels else []
    unknown = (set(wanted) - {one.name for one in FAULTS}) | (set(names) - set(levels.SECONDS))
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    results = _read(options.resume)
    for level in names:
        for fault in FAULTS:
            done = any((one["fault"], one["level"]) == (fault.name, level) for one in results)
            found_before = any(one["fault"] == fault.name and one["by"] and one["level"] < level for one in results)
            if fault.name not in wanted or done or (options.missed and found_before):
                continue
            result = tried(fault, levels.Level(level, levels.SECONDS[level]))
            results.append(result)
            print(json.dumps(result), flush=True)
            if options.resume is not None:
                with options.resume.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(result) + "\n")
    print(table(results))
    return 0


def tried(fault: LevelFault, level: levels.Level) -> Result:
    """By which check, if any, the fault was found, what it said, and the seconds that its checks took."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    fitting = level.fitting(levels.CHECKS)
    shares = {one.name: share for one, share in zip(fitting, level.shares(fitting), strict=True)}
    broken = [one for one in fault.checks(cores) if one.name in shares]
    start, found = time.monotonic(), dict[str, str]()
    with tempfile.TemporaryDirectory() as work:
        for one in broken:
            found |= _named(one, shares[one.name], cores, Path(work))
    took = round(time.monotonic() - start, 1)
    given = {one.name: round(shares[one.name], 1) for one in broken}
    return {"fault": fault.name, "level": level.name, "by": found, "given_s": given, "took_s": took}


def _named(check: Check, seconds: float, cores: Cores, work: Path) -> dict[str, str]:
    node = Node(processor().name, cores, work)
    return {
        f"{one.check} of {one.entity}": one.evidence.partition(" Logs: ")[0][:300]  # no path of this machine
        for one in check.run(node, seconds)
        if one.outcome in (Outcome.BAD, Outcome.UNKNOWN)
    }


def table(results: list[Result]) -> str:
    """Markdown: a row a fault, a column a level."""
    lines = ["| fault | " + " | ".join(f"level {name}" for name in levels.SECONDS) + " |"]
    lines.append("|---" * (1 + len(levels.SECONDS)) + "|")
    for fault in FAULTS:
        cells = [_cell(results, fault.name, level) for level in levels.SECONDS]
        lines.append(f"| {fault.what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(results: list[Result], fault: str, level: str) -> str:
    one = next((one for one in results if (one["fault"], one["level"]) == (fault, level)), None)
    if one is None:
        before = any(each["fault"] == fault and each["by"] and each["level"] < level for each in results)
        return "as before it" if before else "not tried"
    if not one["given_s"]:
        return "no check of it"
    names = sorted({name.partition(" of ")[0] for name in one["by"]})
    seconds = ", ".join(f"{given:.0f} s" for given in one["given_s"].values())
    return f"{', '.join(names)} ({seconds})" if names else f"not found ({seconds})"


def _read(path: Path | None) -> list[Result]:
    if path is None or not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    path.write_text("".join(whole), encoding="utf-8")
    return [json.loads(line) for line in whole]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
