"""A rank that the kernel ends for want of memory: said so, and an outcome like any other that runs out of memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from genqual.cases import Workload
from genqual.engines.base import TokenBatch
from genqual.errors import OutOfMemory
from genqual.metrics.measure import measure
from genqual.ranks.diagnosis import Sighting, lost
from genqual.ranks.errors import GroupLost
from tests.memory_group import memory_group, run_inside

ROOT = Path(__file__).resolve().parents[2]
SAID = "The kernel's out-of-memory killer ended 1 process(es) here: the control group's memory.max is 512 MiB."


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_beyond_its_group_s_limit_ran_out_of_memory(ranks: int, tmp_path: Path) -> None:
    """For real: pytest's side and the ranks in one group with a limit, as a batch system has it."""
    with memory_group(900 << 20) as place:
        done = run_inside(
            place, [sys.executable, "-m", "tests.ranks.oom_kill", str(tmp_path), str(ranks)],
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    headline = said["lost"].splitlines()[0]
    assert said["oom"] is True, said["lost"]
    assert said["rank"] == 0
    assert "The kernel's out-of-memory killer ended" in headline
    assert "the control group's memory.limit_in_bytes is 900 MiB" in headline
    assert "Use a smaller batch" in headline
    assert said["again"] is True, "and the next call has a fresh group"


def seen(**facts: Any) -> Sighting:
    return Sighting("a-case", "generate", 2, 100.0, 30.0, **facts)


@pytest.mark.parametrize(
    ("facts", "killed"),
    [
        ({"gone": {1: 100.5}, "exits": {1: -9}, "oom": SAID}, True),
        # A launcher that does not tell how the rank ended.
        ({"gone": {1: 100.5}, "oom": SAID}, True),
        # The launcher was ended before a rank was seen to.
        ({"launcher_code": -9, "oom": SAID}, True),
        # Killed, and the kernel counts nobody: somebody sent the signal.
        ({"gone": {1: 100.5}, "exits": {1: -9}}, False),
        # The kernel ended another process meanwhile, a compiler say; this rank crashed.
        ({"gone": {1: 100.5}, "exits": {1: -11}, "oom": SAID}, False),
        ({"gone": {1: 100.5}, "exits": {1: 3}, "oom": SAID}, False),
        ({"answered": {0}, "oom": SAID}, False),
    ],
)
def test_only_what_the_kernel_ended_ran_out_of_memory(facts: dict[str, Any], killed: bool) -> None:
    error = lost(seen(**facts))
    assert isinstance(error, GroupLost)
    assert isinstance(error, OutOfMemory) is killed
    assert (SAID in error.headline) is killed


class Killed:
    """A group whose rank the kernel ends at the first request."""

    loaded = ()

    def memory(self, **_: bool) -> list[Any]:
        return []

    def generate(self, batch: TokenBatch, new_tokens: int) -> Any:
        raise lost(seen(gone={1: 100.5}, exits={1: -9}, oom=SAID))


def test_it_is_an_outcome_of_a_measurement() -> None:
    found = measure(Killed(), Workload(1, 2, 2), [[3, 4]], repetitions=1, warmup=1)
    assert found.status == "oom"
    assert SAID in found.message
