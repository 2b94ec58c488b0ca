"""Real launches for the gate's benchmarks, kept in a JSON file that a later call goes on with. No torch here."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np

from genqual.cases import Case, Workload
from genqual.devices.registry import devices
from genqual.engines.registry import engine
from genqual.gate import decision
from genqual.gate.case_launches import CaseLaunches
from genqual.gate.launch_plan import LaunchJob, frozen_shape
from genqual.models.registry import resolve
from genqual.ranks.client import Generator
from genqual.ranks.connections import Reply
from genqual.ranks.group_spec import GroupPlan
from genqual.ranks.pool import Pool
from tests.benchmarks.slowdown import SLOW
from tests.here import CPU

ROOT: Final = Path(__file__).resolve().parents[2]
DECODE: Final = Workload(batch=1, input_length=128, new_tokens=32)
ARMS: Final = {"honest": 0.0, "slow": 0.05}


class Collector:
    """Starts launches of one case, honest or slowed by real work, and keeps each launch's z and all of its steps."""

    def __init__(self, path: Path, *, model: str, engine_name: str, ranks: int, dtype: str = "bf16") -> None:
        self.path = path
        self.about = {"model": model, "engine": engine_name, "ranks": ranks, "dtype": dtype}
        self.launches: list[dict[str, Any]] = []
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["about"] != self.about:
                raise SystemExit(f"{path} holds launches of {kept['about']}, not of {self.about}; give another --json")
            self.launches = kept["launches"]
        self._case = Case(CPU, engine_name, model, dtype, ranks)

    def of(self, arm: str, condition: str) -> list[dict[str, Any]]:
        return [one for one in self.launches if one["arm"] == arm and one["condition"] == condition]

    def collect(self, wanted: dict[str, int], condition: str) -> None:
        """Launch until each arm has `wanted` launches in `condition`, the arms in turns."""
        missing = {arm: count - len(self.of(arm, condition)) for arm, count in wanted.items()}
        todo = [arm for turn in range(max(missing.values(), default=0)) for arm in missing if turn < missing[arm]]
        start = time.monotonic()
        with contextlib.ExitStack() as stack:
            lists = {arm: stack.enter_context(self._lists(arm)) for arm in sorted(set(todo))}
            for index, arm in enumerate(todo):
                if condition == "busy":
                    with competing(1):
                        self._one(lists[arm], arm, condition)
                else:
                    self._one(lists[arm], arm, condition)
                left = (time.monotonic() - start) / (index + 1) * (len(todo) - index - 1)
                one = self.launches[-1]
                said = one.get("failed") or f"z {one['z']:+.4f}, {one['wall_s']:.1f} s"
                print(
                    f"{condition} {arm} {index + 1}/{len(todo)}: {said}, {left:.0f} s left", file=sys.stderr, flush=True
                )

    @contextlib.contextmanager
    def _lists(self, arm: str) -> Iterator[tuple[CaseLaunches, list[Sequence[Reply]]]]:
        device, spec = devices()[CPU], engine(self._case.engine)
        pool = Pool(1)
        with tempfile.TemporaryDirectory(prefix="genqual-") as logs, slowed(ARMS[arm], self.path):
            plan = GroupPlan(
                case=self._case,
                implementation=SLOW if ARMS[arm] else spec.implementation,
                model=resolve(self._case.model),
                placement=device.place(self._case.ranks, 1),
                torch_device=device.torch_device,
                backend=device.backend,
                logs=Path(logs),
                options=dict(spec.options),
                path=(str(ROOT),),
            )
            generator = Generator(pool, plan)
            try:
                shape = frozen_shape(generator.loaded[0].parameters, self._case.dtype)
                ranks = self._case.ranks
                slowdown = decision.settings_for("tpot", ranks).tolerance
                job = LaunchJob.of(["tpot"], {"tpot": DECODE}, shape, slowdown=slowdown, ranks=ranks)
                replies: list[Sequence[Reply]] = []
                lists = CaseLaunches(generator, job, seen=replies.append)
                yield lists, replies
            finally:
                pool.close_all()

    def _one(self, lists: tuple[CaseLaunches, list[Sequence[Reply]]], arm: str, condition: str) -> None:
        launches, replies = lists
        replies.clear()
        with slowed(ARMS[arm], self.path):
            taken = launches.extend()
        made: dict[str, Any] = {"arm": arm, "condition": condition, "at": time.time(), "wall_s": taken.wall_s}
        if taken.failed:
            made["failed"] = taken.failed
        else:
            kept = taken.metrics["tpot"]
            times = np.min([reply.arrays["decode_times"][:, 0] for reply in replies[0]], axis=0)
            marks = replies[0][0].arrays["decode_marks"]
            made |= json.loads(kept.model_dump_json()) | {"probes": dict(taken.probes)}
            clocks = np.max([reply.arrays["decode_times"][:, 1] for reply in replies[0]], axis=0)
            made["step_s"] = [float(f"{value:.5g}") for value in times[marks[:, 1] == 0]]
            made["frozen_s"] = [float(f"{value:.5g}") for value in clocks]
        self.launches.append(made)
        self._save()

    def _save(self) -> None:
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"about": self.about, "launches": self.launches}) + "\n", encoding="utf-8")
        part.replace(self.path)


@contextlib.contextmanager
def slowed(share: float, path: Path) -> Iterator[None]:
    """What `slow_engine` reads when it is loaded; ranks inherit it. How much work that takes is kept beside `path`."""
    given = {"GENQUAL_TEST_SLOWDOWN": str(share), "GENQUAL_TEST_SLOW_WORK": str(path.absolute().with_suffix(".work"))}
    with mock.patch.dict(os.environ, given):
        yield


@contextlib.contextmanager
def competing(processes: int) -> Iterator[None]:
    """Processes that multiply matrices on the last cores of this host for a block; one leaves the first core alone."""
    cores = sorted(os.sched_getaffinity(0))[-processes:]
    code = (
        "import os, sys, numpy as np; os.sched_setaffinity(0, {int(sys.argv[1])}); a = np.ones((512, 512))\n"
        "while os.getppid() == int(sys.argv[2]): a = (a @ a) / 512"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(core), str(os.getpid())], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        for core in cores
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
            process.wait(10)
