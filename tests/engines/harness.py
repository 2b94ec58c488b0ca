"""Start `scripts/rank.py` in processes of its own and read its answers. No torch on this side."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genqual.ranks.leases import Leases

SCRIPT = Path(__file__).parent / "scripts" / "rank.py"
LIMIT_S = 600.0  # several times the slowest plan where bf16 has no kernels; a plan that takes longer hangs

ROWS = [[3, 141, 59, 26], [535, 89, 79, 32, 384, 626, 43], [11, 7]]  # three lengths, so two rows are padded
LEVEL = [[3, 141, 59, 26], [535, 89, 79, 32]]  # one length: transformers 5 drops the mask
NEW = 12


@dataclass(frozen=True)
class Answers:
    """What one rank wrote: `words` and `arrays` by "key.name"; `stderr` of all ranks."""

    words: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    stderr: str

    def __getitem__(self, key: str) -> Any:
        return self.arrays[key] if key in self.arrays else self.words[key]


def run(folder: Path, *plans: dict[str, Any], ranks: int = 1, **env: str) -> list[Answers]:
    """The answers of each rank to `plans`. Fails with the ranks' stderr when they could not be carried out."""
    file, out = folder / "plan.json", folder / "answer"
    file.write_text(json.dumps(plans))
    with every_core() if ranks > 1 else contextlib.nullcontext():
        done = start([str(file), str(out)], ranks=ranks, **env)
    assert done.returncode == 0, done.stderr[-4000:]
    (folder / "stderr").write_text(done.stderr)
    return answered(folder, ranks)


def answered(folder: Path, ranks: int = 1) -> list[Answers]:
    """What a `run` that ended well left in `folder`, by rank."""
    found, out = [], folder / "answer"
    for rank in range(ranks):
        with np.load(f"{out}.rank{rank}.npz") as arrays:
            words = json.loads(Path(f"{out}.rank{rank}.json").read_text())
            stderr = (folder / "stderr").read_text()
            found.append(Answers(words, {name: arrays[name] for name in arrays.files}, stderr))
    return found


@contextlib.contextmanager
def every_core() -> Iterator[None]:
    """Nobody else computes on this host for a block, as when the suite itself runs two ranks.

    DeepSpeed's ranks spin while they wait for each other: where another process has one of the cores, each of some
    thousand sums takes a slice of the scheduler's time, and 15 s become 85.
    """
    leases, cores = Leases(), [f"cpu:{core}" for core in sorted(os.sched_getaffinity(0))]
    assert leases.take(cores)
    try:
        yield
    finally:
        leases.release(cores)


def start(arguments: list[str], *, ranks: int = 1, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script to its end, under torchrun when there are ranks to be; nothing outlives the time limit."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(SCRIPT), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as child:
        try:
            stdout, stderr = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            # torchrun gives each rank a session of its own; ended politely, it ends them.
            child.terminate()
            try:
                stdout, stderr = child.communicate(timeout=60)
            finally:
                child.kill()
            stderr += f"\nstopped after {LIMIT_S:.0f} s"
    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)


def nrms(logits: NDArray[Any], exact: NDArray[Any]) -> float:
    """RMS of the centred error over the standard deviation of `exact`, dimensionless."""
    a, b = np.asarray(logits, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    error = (a - a.mean(axis=-1, keepdims=True)) - (b - b.mean(axis=-1, keepdims=True))
    return float(np.sqrt(np.mean(error**2)) / np.std(b))
