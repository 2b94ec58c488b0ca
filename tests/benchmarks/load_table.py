"""How long each way of loading takes, phase by phase, in fresh processes.

    python -m tests.benchmarks.load_table llama-30m --dtype bf16 --repeats 3

`load` is the slowest rank's, median over the repeats; `bytes` what the rank that holds most holds. Importing torch,
transformers and the engine's library is part of loading and stands beside it, because on small models it is most of it.
The first repeat is left out: it fills the page cache, and builds or converts what is kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from genqual.cases import Case
from genqual.engines.base import Loaded
from genqual.engines.registry import engine
from genqual.errors import GenqualError
from genqual.models.registry import resolve
from genqual.ranks.pool import Pool
from tests.benchmarks.fault_table import started
from tests.here import CPU

WAYS = (
    ("transformers", 1),
    ("accelerate", 1),
    ("accelerate:placement=dispatch", 1),
    ("accelerate:placement=disk-offload", 1),
    ("transformers-tp", 2),
    ("deepspeed-inference", 2),
    ("deepspeed-inference:load=meta", 2),
    ("deepspeed-inference:load=presharded", 2),
    ("deepspeed-zero", 1),
    ("deepspeed-zero", 2),
    ("deepspeed-zero:offload=nvme", 2),
)


def main(arguments: list[str]) -> int:
    """Print a Markdown table; a way that upstream cannot go says why."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.load_table", description=__doc__)
    parser.add_argument("model", nargs="?", default="llama-30m")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="the ways whose name has TEXT in it: zero")
    asked = parser.parse_args(arguments)
    print("| how | ranks | load s | of it import | rest by phase | MiB |\n|---|---|---|---|---|---|", flush=True)
    for name, ranks in (way for way in WAYS if asked.only in way[0]):
        print(f"| {name} | {ranks} | {row(asked.model, asked.dtype, name, ranks, asked.repeats)} |", flush=True)
    return 0


def row(model: str, dtype: str, name: str, ranks: int, repeats: int) -> str:
    """The cells of one way of loading."""
    reason = engine(name).why_not(device=CPU, dtype=dtype, ranks=ranks, architecture=resolve(model).architecture)
    if reason:
        return f"unsupported | - | {reason} | -"
    runs: list[Loaded] = []
    for _ in range(repeats + 1):
        with tempfile.TemporaryDirectory() as logs:
            pool = Pool(1)
            try:
                loaded = started(pool, Path(logs), Case(CPU, name, model, dtype, ranks)).loaded
            except GenqualError as error:
                return f"{type(error).__name__.lower()} | - | {str(error).partition(': ')[2]} | -"
            finally:
                pool.close_all()
        runs.append(max(loaded, key=lambda one: one.load_s))
    kept = runs[1:]
    phases = {phase: statistics.median(one.phases.get(phase, 0.0) for one in kept) for phase in kept[0].phases}
    rest = ", ".join(f"{phase} {spent:.2f}" for phase, spent in phases.items() if phase != "import" and spent >= 0.005)
    load = statistics.median(one.load_s for one in kept)
    return f"{load:.2f} | {phases['import']:.2f} | {rest} | {kept[0].weight_bytes / 2**20:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
