"""How surely a slow rank is named, on this host: N runs with rank 0 or 1 slower, and N clean ones.

The ranks change cores from run to run, so a core that is slower by itself is told apart (and named, in clean runs too).

    python -m tests.benchmarks.straggler --runs 20 --slower 0.05

Two ranks of transformers-tp on two cores, llama-tiny; the fault makes one rank compute 5 % longer in every forward
pass. For a quiet host: CPU time leaves out other jobs' time, not what they do to caches and clocks. Exit 1 when a slow
rank was not named, or a clean one was.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from genqual.cases import Json
from genqual.devices.registry import processor
from genqual.health.checks.rank_steps import RankSteps, decided, group_plan
from genqual.health.stragglers import Standing
from genqual.ranks.client import Generator
from genqual.ranks.pool import Pool

SLOW = "genqual.faults.injectors.ranks:rank_slow"


def main(arguments: list[str]) -> int:
    """Print one line a run, then what was named of how many."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.straggler", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slower", type=float, default=0.05)
    options = parser.parse_args(arguments)
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    if len(cores) < 2:
        sys.exit("two cores are needed: a rank on each")
    right = clean = 0
    with tempfile.TemporaryDirectory() as logs:
        pool = Pool(1)
        try:
            generator = Generator(pool, group_plan(processor().name, cores, Path(logs)))
            for number in range(options.runs):
                rank = number % 2
                params: dict[str, Json] = {"on_rank": rank, "share": options.slower}
                right += names(generator, params, f"rank {rank} slow") == [f"rank {rank}"]
                clean += names(generator, None, "clean") == []
        finally:
            pool.close_all()
    print(f"slow rank named in {right} of {options.runs}; nobody named in {clean} of {options.runs} clean runs")
    return int((right, clean) != (options.runs, options.runs))


def names(generator: Generator, params: dict[str, Json] | None, what: str) -> list[str]:
    """The ranks that are named in one run; ranks and cores are shown."""
    found = decided(generator, None if params is None else (SLOW, params), RankSteps.seconds)
    if isinstance(found, str):
        sys.exit(found)
    ranks, cores, runs = found
    print(what, *(shown(one) for one in (*ranks, *cores)), f"{runs} runs", flush=True)
    return [one.entity for one in ranks if one.is_straggler]


def shown(one: Standing) -> str:
    return f"{one.entity} {one.slower:+.1%} ({one.low:+.1%} to {one.high:+.1%})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
