"""`--instances` as a user sees it: instances on cores of their own, one record of what they do in all."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genqual.devices.base import Placement
from genqual.engines.base import Generated, TokenBatch
from genqual.errors import OutOfMemory
from genqual.session import concurrent_instances
from tests.here import CPU
from tests.plugin.suite import numpy_engine, suite

ASKED = (
    *("-m", CPU, "--benchmark", *numpy_engine()),
    *("--batch-sizes", "2", "--input-lengths", "8", "--new-tokens", "5", "-k", "test_instances"),
)


def test_two_instances_run_on_cores_of_their_own(tmp_path: Path) -> None:
    run = suite(tmp_path, *ASKED, "--instances", "2", "--allow-absent")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
    said = re.search(r"b2-i8-n5 2 instances: (\S+) tokens/s in all, TPOT of each (\S+), (\S+) ms", run.stdout)
    assert said is not None, run.stdout
    with sqlite3.connect(tmp_path / "results.db") as database:
        (body,) = [json.loads(body) for (body,) in database.execute("select body from records")]
    found = {metric["name"]: metric for metric in body["metrics"]}
    assert set(found) == {"instances_tokens_per_s", "instances_tpot"}
    assert body["protocol"]["instances"] == 2
    assert f"{found['instances_tokens_per_s']['value']:.4g}" == said[1]
    assert found["instances_tpot"]["samples"] == pytest.approx([float(said[2]) / 1e3, float(said[3]) / 1e3], rel=1e-3)


def test_the_places_of_a_host_are_shared_out_without_one_left_or_given_twice() -> None:
    whole = Placement(env=tuple({"RANK_OF": str(n)} for n in range(6)), cores=tuple((n, n + 6) for n in range(6)))
    shares = [concurrent_instances._share(whole, index, 2) for index in range(3)]
    assert [share.cores for share in shares] == [((0, 6), (1, 7)), ((2, 8), (3, 9)), ((4, 10), (5, 11))]
    assert tuple(env for share in shares for env in share.env) == whole.env


def test_more_than_the_host_has_room_for_is_unsupported_with_the_reason(tmp_path: Path) -> None:
    run = suite(tmp_path, *ASKED, "--instances", "4000", "-rs", "--allow-absent")
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"--instances 4000 of 1 rank\(s\): --ranks 4000: this host has", run.stdout), run.stdout


def test_without_it_there_is_no_such_item(tmp_path: Path) -> None:
    run = suite(tmp_path, *ASKED, "--collect-only", "-q")
    assert "test_instances_side" not in run.stdout


class Instance:
    """Says how many runs had begun, in all instances, when each of its own did."""

    def __init__(self, begun: list[int], falls_at: int | None = None) -> None:
        self.begun, self.falls_at, self.runs = begun, falls_at, 0

    def generate(self, batch: TokenBatch, new_tokens: int) -> Generated:
        self.runs += 1
        self.begun.append(self.runs)
        if self.runs == self.falls_at:
            raise OutOfMemory("no room beside the other")
        steps = np.arange(1.0, new_tokens + 1)
        return Generated(np.zeros((1, new_tokens), dtype=np.int64), steps, float(steps[-1]), 0.0)


def at_once(*live: Any) -> list[list[Generated]]:
    return concurrent_instances._at_once(list(live), TokenBatch.of([[3]]), 2, 3)


def test_every_repetition_begins_together() -> None:
    begun: list[int] = []
    runs = at_once(Instance(begun), Instance(begun), Instance(begun))
    assert begun == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [len(each) for each in runs] == [3, 3, 3]


def test_the_instance_that_fell_is_the_cause_and_nobody_waits_for_it() -> None:
    begun: list[int] = []
    with pytest.raises(OutOfMemory, match="no room beside the other"):
        at_once(Instance(begun), Instance(begun, falls_at=2), Instance(begun))
    assert max(begun) == 2
