"""A launch from what ranks sent (written down here): which rank counts, what disturbed it, and one that died."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genqual.cases import Case, Workload
from genqual.gate.case_launches import CaseLaunches
from genqual.gate.launch_plan import LaunchJob, frozen_shape, frozen_source, gated_workloads
from genqual.models.fresh_prompts import FreshPrompts
from genqual.ranks.connections import Reply
from genqual.ranks.errors import GroupLost
from tests.here import CPU
from tests.performance.runs import rank
from tests.plugin.test_judging import entry

GATED = gated_workloads([Workload(1, 16, 9)])


class Ranks:
    """A generator whose two ranks answer what was written down; `lost` is raised instead."""

    engine = "transformers"

    def __init__(
        self,
        *loads: dict[str, Any],
        storage: int = 0,
        lost: GroupLost | None = None,
        again: list[float] | None = None,
    ) -> None:
        self.case = Case(CPU, self.engine, "llama-30m", "bf16", len(loads))
        self.loaded = [rank(**facts) for facts in loads]
        self.plan = SimpleNamespace(placement=SimpleNamespace(threads=1))
        self.storage, self.lost, self.again = storage, lost, again
        self.asked: list[str] = []
        self.prompts = FreshPrompts("a")
        self.fresh: list[Any] = []

    def restart(self) -> None:
        self.asked.append("restart")

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        self.asked.append("alone")
        yield

    def invoke(self, entry: str, params: dict[str, Any], rows: dict[str, np.ndarray[Any, Any]]) -> list[Reply]:
        self.asked += params["sections"]
        self.fresh.append(params.get("fresh"))
        if self.lost is not None:
            raise self.lost
        value = {
            **{"frozen_source": frozen_source(), "storage_bytes": self.storage, "hook": "steps", "cpu_s": 1.0},
            **{"plain_read_s": 0.25, "peak_bytes": 1 << 20},
        }
        arrays = {} if self.again is None else {"load_times": np.array([[took, 0.5, 0.5] for took in self.again])}
        return [Reply(index, dict(value), dict(arrays), 0.0, 1.0) for index in range(len(self.loaded))]


def launches(ranks: Ranks, *metrics: str) -> CaseLaunches:
    job = LaunchJob.of(metrics, GATED, frozen_shape(31_000_000, "bf16"), slowdown=0.05, ranks=len(ranks.loaded))
    return CaseLaunches(ranks, job)  # type: ignore[arg-type]


def test_load_time_is_the_slowest_rank_s_without_its_imports() -> None:
    ranks = Ranks({"load_s": 9.0, "phases": {"import": 8.5, "read": 0.5}}, {"load_s": 3.0, "phases": {"import": 2.0}})
    taken = launches(ranks, "load_s", "peak_memory").extend()
    assert taken.metrics["load_s"].p50 == pytest.approx(1.0), "the second rank's, though the first took longer in all"
    assert taken.metrics["load_s"].z == pytest.approx(math.log(1.0 / 0.25))
    assert taken.metrics["peak_memory"].p50 == 1 << 20
    assert ranks.asked == ["restart", "alone", "load", "memory"]


def test_a_load_from_storage_is_known_to_be_cold() -> None:
    taken = launches(Ranks({"load_s": 9.0}, storage=64 << 20), "load_s", "peak_memory").extend()
    assert "the page cache was cold" in taken.why_not("load_s", None, "engine")[0]
    assert taken.why_not("peak_memory", None, "engine") == []


def test_who_loads_again_is_judged_by_that_and_needs_no_warm_start() -> None:
    ranks = Ranks({"load_s": 9.0, "phases": {"import": 8.5, "read": 0.5}}, storage=64 << 20, again=[1.0, 1.5, 4.0])
    taken = launches(ranks, "load_s").extend()
    assert taken.metrics["load_s"].z == pytest.approx(math.log(3.0))
    assert taken.metrics["load_s"].steps == 3
    assert taken.why_not("load_s", None, "engine") == []


def test_one_load_is_not_compared_with_many() -> None:
    once, many = (launches(Ranks({"load_s": 9.0}, again=again), "load_s").extend() for again in (None, [1.0, 1.5, 4.0]))
    for here, there, said in ((once, many, "loaded once, and"), (many, once, "loaded again and again, and")):
        known = entry("load_s").model_copy(update={"launches": (there.metrics["load_s"],), "admission": {}})
        assert [said in reason for reason in here.why_not("load_s", known, "engine")] == [True]
        alike = known.model_copy(update={"launches": (here.metrics["load_s"],)})
        assert here.why_not("load_s", alike, "engine") == []


class Server(Ranks):
    """Another's process, which stays when its client is started afresh."""

    engine = "server"


def test_no_launch_sends_a_server_what_another_has_sent() -> None:
    ranks, other = Server({"load_s": 9.0}), Ranks({"load_s": 9.0})
    for one in (ranks, other):
        lists = launches(one, "load_s", "peak_memory")
        lists.extend()
        lists.extend()
    assert other.fresh == [None, None], "what we start ourselves starts with an empty cache"
    first, second = (set(fresh["numbers"]) for fresh in ranks.fresh)
    assert first
    assert not first & second
    assert {fresh["seed"] for fresh in ranks.fresh} == {"a"}


def test_a_launch_that_dies_is_one_that_failed_and_says_why() -> None:
    lists = launches(Ranks({"load_s": 9.0}, lost=GroupLost("rank 0 was killed by SIGKILL", None)), "load_s")
    taken = lists.extend()
    assert taken.failed == "launch 1 died: rank 0 was killed by SIGKILL"
    assert lists.taken == [taken]


def test_a_host_that_slept_in_a_launch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot's clock goes on while the host is suspended, the monotonic one does not."""
    ranks = Ranks({"load_s": 9.0})
    real, restart = time.clock_gettime, ranks.restart

    def suspended() -> None:
        monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + 60.0 * (clock == time.CLOCK_BOOTTIME))
        restart()

    monkeypatch.setattr(ranks, "restart", suspended)
    taken = launches(ranks, "load_s").extend()
    assert taken.probes["suspended_s"] == pytest.approx(60.0, abs=0.5)
    assert any("the host was suspended for 60 s" in why for why in taken.why_not("load_s", None, "engine"))


class Unseeing(Ranks):
    """Shows neither loading nor memory, as a server does; `unread` says why its model could not be read."""

    def __init__(self, *loads: dict[str, Any], unread: str = "") -> None:
        super().__init__(*loads)
        self.unread = unread

    def invoke(self, entry: str, params: dict[str, Any], rows: dict[str, np.ndarray[Any, Any]]) -> list[Reply]:
        replies = super().invoke(entry, params, rows)
        for reply in replies:
            reply.value["peak_bytes"] = 0
            if self.unread:
                del reply.value["plain_read_s"]
                reply.value["load_unread"] = self.unread
            step = np.array([[2.0, 1.0, 1.0]] * 16) * np.linspace(1.0, 1.01, 16)[:, None]
            marks = np.array([[0, turn % 4 == 3] for turn in range(16)])
            dict.update(reply.arrays, decode_times=step, decode_marks=marks)
        return replies


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (Unseeing({"load_s": 0.0}), "loading was not seen from here"),
        (Unseeing({"load_s": 3.0}, unread="model m: no snapshot"), "model m: no snapshot"),
    ],
)
def test_what_a_launch_cannot_measure_costs_nothing_else(ranks: Unseeing, said: str) -> None:
    taken = launches(ranks, "load_s", "peak_memory", "tpot").extend()
    assert taken.failed == ""
    assert set(taken.metrics) == {"tpot"}
    assert taken.metrics["tpot"].cpu_share is None
    assert taken.why_not("load_s", None, "engine") == [said]
    assert taken.why_not("peak_memory", None, "engine") == ["memory was not read in this launch"]
    assert taken.why_not("tpot", None, "engine") == []
