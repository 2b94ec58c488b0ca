"""Launches of the pinned build: run by its own Python, against its own genqual. One JSON line a launch on stdout.

    PYTHONPATH=<pinned plugins>:<pinned root>:<this folder> python pinned.py --minutes 5 --dtypes fp32,bf16

Imports nothing of today's genqual, so that an edit of ours is never taken for drift of the host.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, product
from pathlib import Path
from typing import Any, Final

import numpy as np

from genqual.devices.registry import devices, processor
from genqual.engines.registry import engine
from genqual.models.prompts import synthetic_rows
from genqual.models.registry import resolve
from genqual.performance.design import Job, frozen_shape
from genqual.ranks.handle import Generator
from genqual.ranks.plan import GroupPlan
from genqual.ranks.pool import Pool
from genqual.spec import Case, Workload

DECODE: Final = Workload(batch=1, input_length=128, new_tokens=32)
SLOW: Final = "tests.benchmarks.slow_engine:SlowEager"
MORE: Final = 0.05  # work that the arm `slower` does in its decode steps
CALLS: Final = 4  # generations with all controls: 124 steps
_NO_RANDOM_ADDRESSES: Final = 0x0040000  # Linux's ADDR_NO_RANDOMIZE

ARMS: Final = {
    "same": {},
    "slower": {"GENQUAL_TEST_SLOWDOWN": str(MORE)},
    "huge-pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "fixed-layout": {"PYTHONHASHSEED": "0"},
}
"""Arm -> environment of its ranks. The last two change one thing each: the size of pages; addresses and hash seed."""

ORDER: Final = ("same", "slower", "same", "same", "huge-pages", "same", "slower", "same", "fixed-layout", "same")


@contextmanager
def arm_of(name: str) -> Iterator[None]:
    """What a rank that is started inside the block inherits."""
    before = dict(os.environ)
    os.environ.update(ARMS[name])
    libc = ctypes.CDLL(None)
    persona = libc.personality(0xFFFFFFFF)
    if name == "fixed-layout":
        libc.personality(persona | _NO_RANDOM_ADDRESSES)
    try:
        yield
    finally:
        libc.personality(persona)
        os.environ.clear()
        os.environ.update(before)


def launch(pool: Pool, logs: Path, dtype: str, arm: str) -> dict[str, Any]:
    """One fresh process, judged twice over: the gate's own alternation, then every control at once."""
    device = processor()
    case = Case(device.name, "transformers", "llama-30m", dtype, 1)
    spec = engine(case.engine)
    plan = GroupPlan(
        case=case,
        implementation=SLOW if arm == "slower" else spec.implementation,
        model=resolve(case.model),
        placement=device.place(1, 1),
        torch_device=device.torch_device,
        backend=device.backend,
        logs=logs,
        options=dict(spec.options),
        path=tuple(entry for entry in os.environ["PYTHONPATH"].split(os.pathsep) if entry),
    )
    conditions = devices()[device.name].conditions
    before, start = conditions(), time.monotonic()
    with arm_of(arm):
        generator = Generator(pool, plan)
        loaded = generator.loaded[0]
    shape = frozen_shape(loaded.parameters, dtype)
    job = Job.of(["tpot"], {"tpot": DECODE}, shape, slowdown=MORE, ranks=1)
    ids = np.array(synthetic_rows(loaded.vocabulary, DECODE.batch, DECODE.input_length, seed=0), dtype=np.int64)
    reply = generator.invoke(
        "genqual.performance.alternate:launch",
        {
            **{"sections": ["decode"], "shape": shape.model_dump(), "new_tokens": DECODE.new_tokens},
            **{"calls": dict(job.calls), "slowdown": job.slowdown, "threads": plan.placement.threads},
        },
        {"decode": ids},
    )[0]
    many = generator.invoke(
        "controls:launch",
        {"shape": shape.model_dump(), "new_tokens": DECODE.new_tokens, "calls": CALLS},
        {"ids": ids},
    )[0]
    facts = dict(many.value)
    names = facts.pop("names")
    return {
        **{"dtype": dtype, "arm": arm, "wall_s": round(time.monotonic() - start, 2)},
        **{"load_s": round(loaded.load_s, 3), "loading_s": round(loaded.loading_s, 3)},
        "cpu_share": round(float(reply.value["cpu_share"]), 4),
        "conditions": [before, conditions()],
        "facts": facts,
        "gate": {
            "candidate": tenths(reply.arrays["decode_times"][:, 0]),
            "frozen_before": tenths(reply.arrays["decode_times"][:, 1]),
            "frozen_after": tenths(reply.arrays["decode_times"][:, 2]),
            "call": reply.arrays["decode_marks"][:, 0].tolist(),
            "slowed": reply.arrays["decode_marks"][:, 1].tolist(),
        },
        "controls": {name: tenths(column) for name, column in zip(names, many.arrays["times"].T, strict=True)},
    }


def tenths(seconds: Any) -> list[int]:
    """Seconds as whole tenths of a microsecond: 0.005 % of the shortest control."""
    return [round(float(value) * 1e7) for value in seconds]


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--minutes", type=float, required=True)
    made.add_argument("--dtypes", required=True)
    made.add_argument("--from", dest="start", type=int, default=0, help="position in the order of arms")
    made.add_argument("--work", type=Path, required=True, help="where the amount of a slowdown's work is kept")
    options = made.parse_args()
    os.environ["GENQUAL_TEST_SLOWDOWN"] = "0"
    os.environ["GENQUAL_TEST_SLOW_WORK"] = str(options.work)
    todo = cycle([(arm, dtype) for arm, dtype in product(ORDER, options.dtypes.split(","))])
    for _ in range(options.start):
        next(todo)
    end, longest = time.monotonic() + 60 * options.minutes, 0.0
    with tempfile.TemporaryDirectory(prefix="genqual-") as logs:
        pool = Pool(1, progress=lambda text: None)
        try:
            while time.monotonic() + longest < end:
                arm, dtype = next(todo)
                start = time.monotonic()
                line = {"at": round(time.time(), 1), **launch(pool, Path(logs), dtype, arm)}
                pool.close_all()
                pool = Pool(1, progress=lambda text: None)
                longest = max(longest, time.monotonic() - start)
                sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
                sys.stdout.flush()
        finally:
            pool.close_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
