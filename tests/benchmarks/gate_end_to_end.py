"""The gate as a user runs it, end to end: pytest, fresh launches, real slowdowns; nothing is simulated.

  baseline   `genqual rebase` of TPOT, llama-30m, one rank, into a directory of its own
  unchanged  10 runs of the unchanged tree: none may be REGRESSED
  slower     10 runs with 5 % more real work in the engine's decode: at least 9 REGRESSED, none PASS
  faster     3 runs against a baseline of an engine that was slowed by 11.1 %: IMPROVED
  loaded     5 unchanged runs with a competing load on every core: INCONCLUSIVE may grow, REGRESSED may not
  node       3 runs with candidate and reference step both 5 % slower, --under-test node: REGRESSED or noisy, never PASS
  same-node  3 runs of the unchanged tree, --under-test node: none may be REGRESSED
  driver     3 runs against a baseline of another driver: judged, not REGRESSED; without --under-test driver not

At two ranks: --engine deepspeed-inference --ranks 2 --phases unchanged,loaded.
Every run is kept in the JSON file at once, and a later call goes on where an earlier one ended. --phases picks some.
Exit status 0: every phase that was asked for came out as said. 1: not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from genqual.gate import baseline_file
from genqual.gate.baseline_builder import merged
from genqual.gate.baseline_file import BaselineFile
from tests.benchmarks.gate_command import Gate, slowdown_environment
from tests.benchmarks.gate_launches import ROOT, competing
from tests.benchmarks.ratios import table

PLUGIN: Final = "tests.benchmarks.slow_plugin"
RUNS: Final = {
    "unchanged": 10,
    "slower": 10,
    "faster": 3,
    "loaded": 5,
    "node": 3,
    "same-node": 3,
    "driver": 3,
    "driver-engine": 1,
}
SLOWED: Final = {"slower", "faster", "node"}
Verdicts = Counter[str]


class Bench:
    """Runs what is missing and keeps it."""

    def __init__(self, directory: Path, case: Sequence[str], launches: int) -> None:
        self.directory, self.launches, self.gate = directory, launches, Gate(tuple(case))
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "runs.json"
        self.runs: list[dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else []

    def baselines(self, name: str, *, slowdown: float = 0.0) -> Path:
        """The directory of a baseline, measured now unless it is there."""
        place = self.directory / f"baselines-{name}"
        if list(place.glob("*.json")):
            return place
        more = ("--launches", str(self.launches), "--author", "gate_end_to_end", "--commit", "0" * 40)
        plugins = [PLUGIN] if slowdown else []
        done = subprocess.run(
            self.gate.rebase(place, *more, plugins=plugins),
            cwd=ROOT,
            env=slowdown_environment(slowdown, self.directory / "work"),
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the baseline {name} could not be made; see above")
        for path in place.glob("*.json"):
            path.write_text(_of_this_hour(baseline_file.read(path)))
        return place

    def run(self, phase: str, baselines: Path, *more: str, slowdown: float = 0.0, frozen: bool = False) -> None:
        """One run of pytest, its verdict read from JUnit."""
        done = self.gate.judge(
            self.directory / "junit.xml",
            *(f"--state-dir={self.directory / 'state'}", f"--baselines={baselines}"),
            *("--gate-budget", "240", "--no-pair", *more),  # the slow engine would be in both builds
            plugins=[PLUGIN] if slowdown else [],
            environment=slowdown_environment(slowdown, self.directory / "work", frozen=frozen),
        )
        if done.found is None:
            raise SystemExit(f"{phase}: pytest ended with {done.exit_code} and no report:\n{done.output}")
        self.runs.append({"phase": phase, **done.line()})
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.runs, indent=1) + "\n")
        part.replace(self.file)
        one = self.runs[-1]
        print(
            f"  {done.verdict} {one['estimate'] or ''} {one['launches'] or ''} launches, {done.wall_s:.0f} s: "
            f"{done.message[:160]}",
            flush=True,
        )

    def phase(self, name: str, make: Callable[[], None]) -> None:
        """Runs of a phase until there are enough."""
        have = [one for one in self.runs if one["phase"] == name]
        todo = RUNS[name] - len(have)
        if todo > 0:
            each = np.median([one["wall_s"] for one in self.runs]) if self.runs else 60.0
            print(f"{name}: {todo} runs, about {each * todo:.0f} s", flush=True)
        for _ in range(todo):
            make()

    def verdicts(self, name: str) -> Verdicts:
        return Counter(one["verdict"] for one in self.runs if one["phase"] == name)


def _of_this_hour(known: BaselineFile) -> str:
    """The file with no drift in it, judged at 5 %: the phases follow within the hour, and what they show is the rule
    without it; what drift does is in `gate_two_stages`.
    """
    entries = {}
    for key, entry in known.entries.items():
        assert entry.drift is not None
        still = entry.drift.model_copy(update={"sd": 0.0})
        entries[key] = entry.model_copy(update={"drift": still, "tolerance": 0.05}).sealed()
    return merged(known, known.class_id, known.fingerprint, entries)


def other_driver(place: Path, target: Path) -> Path:
    """The baselines of `place` as if another driver had been there."""
    target.mkdir(exist_ok=True)
    (path,) = place.glob("*.json")
    known = baseline_file.read(path)
    entries = {
        key: entry.model_copy(update={"identity": {**entry.identity, "driver": "another"}}).sealed()
        for key, entry in known.entries.items()
    }
    (target / path.name).write_text(merged(None, known.class_id, known.fingerprint, entries))
    return target


def phases(bench: Bench) -> dict[str, tuple[Callable[[], None], Callable[[Verdicts], bool]]]:
    def loaded() -> None:
        with competing(len(os.sched_getaffinity(0))):
            bench.run("loaded", bench.baselines("honest"))

    def driver(phase: str, *more: str) -> None:
        bench.run(phase, other_driver(bench.baselines("honest"), bench.directory / "baselines-driver"), *more)

    return {
        "unchanged": (lambda: bench.run("unchanged", bench.baselines("honest")), lambda v: not v["regressed"]),
        "slower": (
            lambda: bench.run("slower", bench.baselines("honest"), slowdown=0.05),
            lambda v: v["regressed"] >= 9 and not v["pass"] and not v["improved"],
        ),
        "faster": (
            lambda: bench.run("faster", bench.baselines("slowed", slowdown=1 / 0.9 - 1)),
            lambda v: v["improved"] == RUNS["faster"],
        ),
        "loaded": (loaded, lambda v: not v["regressed"]),
        "node": (
            lambda: bench.run(
                "node", bench.baselines("honest"), "--under-test", "node", slowdown=0.05, frozen=True
            ),
            lambda v: not v["pass"] and not v["improved"],
        ),
        "same-node": (
            lambda: bench.run("same-node", bench.baselines("honest"), "--under-test", "node"),
            lambda v: not v["regressed"],
        ),
        "driver": (
            lambda: driver("driver", "--under-test", "driver"),
            lambda v: not v["regressed"]
            and not [one for one in bench.runs if one["phase"] == "driver" and "driver was" in one["message"]],
        ),
        "driver-engine": (
            lambda: driver("driver-engine"),
            lambda v: v["inconclusive"] == 1
            and all("driver was" in one["message"] for one in bench.runs if one["phase"] == "driver-engine"),
        ),
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.gate_end_to_end", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--model", default="llama-30m")
    made.add_argument("--engine", default="transformers", help="the only one that can be slowed (default: %(default)s)")
    made.add_argument("--dtype", default="bf16", help="of the engine (default: %(default)s)")
    made.add_argument("--ranks", type=int, default=1, help="(default: %(default)s)")
    made.add_argument("--launches", type=int, default=16, help="of each baseline (default: %(default)s)")
    made.add_argument("--phases", default=",".join(RUNS), help="(default: %(default)s)")
    made.add_argument("--json", type=Path, default=Path("gate-end-to-end"), help="directory (default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    phases_asked = options.phases.split(",")
    if unknown := set(phases_asked) - set(RUNS):
        parser().error(f"--phases {', '.join(sorted(unknown))}: there are {', '.join(RUNS)}")
    if options.engine != "transformers" and (slowed := SLOWED & set(phases_asked)):
        parser().error(f"--phases {', '.join(sorted(slowed))}: only transformers can be slowed on purpose")
    case = [f"--{name}={getattr(options, name)}" for name in ("model", "engine", "dtype", "ranks")]
    bench = Bench(options.json.absolute(), case, options.launches)
    fine = True
    rows = [["phase", "runs", "verdicts", "seconds (median, p95)", "as promised"]]
    known = phases(bench)
    for name in phases_asked:
        make, promised = known[name]
        bench.phase(name, make)
        found = bench.verdicts(name)
        took = [one["wall_s"] for one in bench.runs if one["phase"] == name]
        fine &= promised(found)
        rows.append(
            [
                *(name, str(len(took)), ", ".join(f"{count} {word}" for word, count in found.most_common())),
                *(f"{np.median(took):.0f}, {np.quantile(took, 0.95):.0f}", "yes" if promised(found) else "NO"),
            ]
        )
    print("\n" + table(rows))
    return 0 if fine else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
