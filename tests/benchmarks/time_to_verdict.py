"""How long until n conformance checks have a verdict: one live group of ranks against processes made for each test.

ours     a pytest run of n items that score a tiny Llama against its reference on one persistent group; measured whole,
         from starting Python to its exit, at each n
process  a program a test, as optimum-habana's tests run one (torchrun for several ranks): import torch and
         transformers, load the same checkpoint, generate the same tokens, compare
pool     a spawned multiprocessing pool a test, as DeepSpeed's DistributedTest makes one: join a process group of gloo,
         load, generate, compare

The others share nothing between tests by construction, so n of them cost n times one: the median of a few real tests,
alternated with ours and with each other in this run, is multiplied. What is left out favours them: no pytest of theirs
is timed, on one rank they do not import DeepSpeed, and they compare tokens where ours compares tokens and log-sum-exp
at every step. Exit status 0: every test of every kind found what the reference says.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import verdict_model
from tests.benchmarks.ratios import save, table

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900.0
POOL_LIMIT_S = 180.0  # multiprocessing replaces a worker that dies at once, for ever: do not watch that for long


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m tests.benchmarks.time_to_verdict", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument(
        "--checks", type=int, nargs="+", default=[24, 240], help="n, each measured (default: %(default)s)"
    )
    made.add_argument("--tests", type=int, default=6, help="real tests of each other kind (default: %(default)s)")
    made.add_argument(
        "--rounds", type=int, default=2, help="times that ours is measured at each n (default: %(default)s)"
    )
    made.add_argument("--ranks", type=int, default=1, help="1: transformers; more: DeepSpeed-Inference (default: 1)")
    made.add_argument("--json", type=Path, help="write the result here as well")
    return made


def run(command: Sequence[str], **environment: str) -> str:
    """Run a program of this checkout to its end; what it printed. Exits when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout


def ours(directory: Path, checks: int, ranks: int) -> float:
    """Seconds of the whole pytest run."""
    start = time.perf_counter()
    said = run(
        ["pytest", "-q", "-p", "no:cacheprovider", "tests/benchmarks/verdict_items.py"],
        GENQUAL_VERDICT_MODEL=str(directory),
        GENQUAL_VERDICT_CHECKS=str(checks),
        GENQUAL_VERDICT_RANKS=str(ranks),
    )
    took = time.perf_counter() - start
    if f"{checks} passed" not in said:
        raise SystemExit(f"ours: not all of {checks} checks passed:\n{said[-4000:]}")
    return took


def process(directory: Path, index: int, ranks: int) -> float:
    """Seconds of one test in a program of its own."""
    module = ["tests.benchmarks.verdict_model", "test", str(directory), str(index)]
    if ranks > 1:
        module = ["torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone", "-m", *module]
    start = time.perf_counter()
    said = run(module)
    took = time.perf_counter() - start
    compare("process", directory, index, json.loads(said.splitlines()[-1]))
    return took


def pool(directory: Path, index: int, ranks: int) -> float:
    """Seconds of one test in a pool of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    start = time.perf_counter()
    # DeepSpeed's pool hands over its work by pickle; this is its way of testing, reproduced, and none of ours.
    with multiprocessing.get_context("spawn").Pool(ranks) as workers:
        work = [(str(directory), index, rank, ranks, port) for rank in range(ranks)]
        tokens = workers.starmap_async(verdict_model.pool_test, work, chunksize=1).get(POOL_LIMIT_S)
    took = time.perf_counter() - start
    compare("pool", directory, index, tokens[0])
    return took


def compare(name: str, directory: Path, index: int, tokens: list[int]) -> None:
    """Exit when a test of another kind did not find the reference's tokens: its time would mean nothing."""
    if tokens != verdict_model.reference(directory)["tokens"][index]:
        raise SystemExit(f"{name}: test {index} made {tokens}, not the reference's tokens")


def measure(directory: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of everything, in one alternated run: `ours n`, `process`, `pool`."""
    others: dict[str, Callable[[Path, int, int], float]] = {"process": process, "pool": pool}
    found: dict[str, list[float]] = {name: [] for name in (*(f"ours {n}" for n in options.checks), *others)}
    # Once for nothing: whoever came first would pay for compiling modules and for reading libraries from the disk.
    ours(directory, 1, options.ranks)
    for other in others.values():
        other(directory, 0, options.ranks)
    for turn in range(options.rounds):
        for checks in options.checks:
            found[f"ours {checks}"].append(ours(directory, checks, options.ranks))
        for index in range(turn, options.tests, options.rounds):
            for name, other in others.items():
                found[name].append(other(directory, index, options.ranks))
    return found


def report(found: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Print the table; return it as data."""
    rows = [["checks", "ours, s (measured)", "process, s (x)", "ratio", "pool, s (x)", "ratio"]]
    data: dict[str, Any] = {"ranks": options.ranks, "seconds": found, "ratios": {}}
    for checks in options.checks:
        mine = statistics.median(found[f"ours {checks}"])
        row, ratios = [str(checks), f"{mine:.1f}"], {}
        for name in ("process", "pool"):
            theirs = checks * statistics.median(found[name])
            ratios[name] = theirs / mine
            row += [f"{theirs:.1f}", f"{ratios[name]:.1f}"]
        rows.append(row)
        data["ratios"][str(checks)] = ratios
    print(table(rows))
    print(
        f"{options.ranks} rank(s). (x): median of {options.tests} real tests, alternated in this run, times the checks."
    )
    for name, seconds in found.items():
        print(f"  {name}: {', '.join(f'{one:.2f}' for one in seconds)} s")
    return data


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the checkpoint, measure, report."""
    options = parser().parse_args(arguments)
    if min(*options.checks, options.tests, options.rounds, options.ranks) < 1 or options.tests < options.rounds:
        parser().error("--checks, --tests, --rounds and --ranks must be at least 1, and --tests at least --rounds")
    with tempfile.TemporaryDirectory(prefix="genqual-verdict-") as scratch:
        directory = Path(scratch) / "llama-tiny"
        most = max(*options.checks, options.tests)
        run(["tests.benchmarks.verdict_model", "prepare", str(directory), str(most)])
        save(options.json, report(measure(directory, options), options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
