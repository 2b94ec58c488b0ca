"""A slow part is named, parts that are alike are not, and too little evidence names nobody."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from genqual.engines.base import TokenBatch
from genqual.health.steps_in_rank import step_times
from genqual.health.stragglers import rank_standings, standings


def rounds(seed: int, count: int, *, slow: float, parts: int = 4, noise: float = 0.02) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    host = 1.0 + 0.3 * np.abs(np.sin(np.arange(count) / 5.0))  # the host's own ups and downs, which all parts share
    table = host * np.exp(noise * random.standard_t(5, (parts, count)))
    table[-1] *= 1.0 + slow
    return {f"core {index}": row for index, row in enumerate(table)}


def named(times: dict[str, np.ndarray]) -> list[str]:
    return [one.entity for one in standings(times) if one.is_straggler]


def test_a_part_slower_by_five_percent_is_named_every_time() -> None:
    assert [named(rounds(seed, 120, slow=0.05)) for seed in range(200)] == [["core 3"]] * 200


def test_parts_that_are_alike_are_never_named() -> None:
    assert [named(rounds(seed, 120, slow=0.0)) for seed in range(500)] == [[]] * 500


def test_with_one_sibling_the_slower_of_two_is_named() -> None:
    assert named(rounds(0, 60, slow=0.05, parts=2)) == ["core 1"]


def test_the_interval_holds_the_truth() -> None:
    missed = 0
    for seed in range(300):
        one = next(one for one in standings(rounds(seed, 40, slow=0.05)) if one.entity == "core 3")
        missed += not one.low <= 0.05 <= one.high
    assert missed <= 1


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({"core 0": np.ones(40)}, "needs siblings"),
        ({"core 0": np.ones(8), "core 1": np.ones(8)}, "too few"),
        ({"core 0": np.ones(40), "core 1": np.zeros(40)}, "above zero"),
        ({"core 0": np.ones(40), "core 1": np.full(40, np.nan)}, "finite"),
    ],
)
def test_what_cannot_be_judged_is_said(times: dict[str, np.ndarray], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        standings(times)


def generations(seed: int, *, slow: float, ranks: int = 2, runs: int = 120, steps: int = 7) -> list[np.ndarray]:
    """Times (runs, steps) by rank. The ranks share a host: its ups and downs are common, and each rank has bad runs.

    A bad run is another job beside one rank: all its steps are up to 10 % slower, so steps are no independent evidence.
    """
    random = np.random.default_rng(seed)
    host = np.exp(np.cumsum(0.05 * random.standard_normal((1, runs, steps)), axis=2))
    disturbed = 1.0 + 0.10 * random.random((ranks, runs, 1)) * (random.random((ranks, runs, 1)) < 0.2)
    table = 2e-3 * host * disturbed * np.exp(0.02 * random.standard_t(4, (ranks, runs, steps)))
    table[-1] *= 1.0 + slow
    return list(table)


def named_parts(times: list[np.ndarray]) -> list[str]:
    """The ranks and places that are stragglers."""
    return [one.entity for found in rank_standings(times) for one in found if one.is_straggler]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_slower_by_five_percent_is_named_every_time(ranks: int) -> None:
    found = [named_parts(generations(seed, slow=0.05, ranks=ranks)) for seed in range(200)]
    assert found == [[f"rank {ranks - 1}"]] * 200


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_are_alike_are_never_named(ranks: int) -> None:
    assert [named_parts(generations(seed, slow=0.0, ranks=ranks)) for seed in range(500)] == [[]] * 500


def test_steps_of_one_run_are_no_independent_evidence() -> None:
    """The reason why the interval is over runs: over steps it would hold the truth less often than it promises."""

    def missed(together: bool) -> int:
        count = 0
        for seed in range(300):
            times = generations(seed, slow=0.0, runs=32, steps=40)
            flat = {f"rank {rank}": one.reshape(-1) for rank, one in enumerate(times)}
            one = (rank_standings(times)[0] if together else standings(flat))[0]
            count += not one.low <= 0.0 <= one.high
        return count

    assert missed(together=True) <= 1
    assert missed(together=False) > 10


def test_one_mean_would_be_misled_by_one_long_stop() -> None:
    times = generations(3, slow=0.0)
    times[0][5, 3] *= 4000  # the host swapped, once
    assert times[0].mean() > 1.5 * times[1].mean()
    assert named_parts(times) == []


def test_times_of_ranks_need_runs_and_steps_in_whole_blocks() -> None:
    for shape, why in (((40,), "runs, steps"), ((41, 3), "multiples of 2"), ((20, 3), "too few")):
        with pytest.raises(ValueError, match=why):
            rank_standings([np.ones(shape), np.ones(shape)])


def crossed(
    seed: int, *, ranks: int, slow_rank: float = 0.0, slow_core: float = 0.0, apart: float = 0.002
) -> list[np.ndarray]:
    """Times (runs, steps) by rank, the ranks changing cores from run to run; the last rank or the last core is slow.

    The cores drift `apart` by some percent meanwhile, as neighbours on a shared host come and go.
    """
    times = generations(seed, slow=slow_rank, ranks=ranks)
    random = np.random.default_rng(seed + 1000)
    drift = np.exp(np.cumsum(apart * random.standard_normal((ranks, 120)), axis=1))
    drift[-1] *= 1.0 + slow_core
    for run in range(120):
        for rank, one in enumerate(times):
            one[run] *= drift[(rank + run) % ranks, run]
    return times


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_slow_rank_and_a_slow_core_are_told_apart_by_changing_places(ranks: int) -> None:
    last = ranks - 1
    found = [named_parts(crossed(seed, ranks=ranks, slow_rank=0.05)) for seed in range(100)]
    assert sum(f"rank {last}" in one for one in found) == 100
    found = [named_parts(crossed(seed, ranks=ranks, slow_core=0.05)) for seed in range(100)]
    assert not any(name.startswith("rank") for one in found for name in one)
    found = [named_parts(crossed(seed, ranks=ranks, slow_core=0.05, apart=0.0)) for seed in range(100)]
    assert found == [[f"place {last}"]] * 100


def test_ranks_that_change_places_and_are_alike_are_never_named() -> None:
    found = [named_parts(crossed(seed, ranks=2)) for seed in range(300)]
    assert not any(name.startswith("rank") for one in found for name in one)


def test_what_a_rank_and_a_place_take_is_read_apart_exactly() -> None:
    """Against times made from known factors: rank 1 of three takes 8 % longer, place 2 takes 5 % longer."""
    ranks, places = (1.0, 1.08, 1.0), (1.0, 1.0, 1.05)
    times = [
        np.array([[factor * places[(rank + run) % 3] * (1.0 + 0.1 * run)] * 4 for run in range(60)])
        for rank, factor in enumerate(ranks)
    ]
    by_rank, by_place = rank_standings(times)
    assert by_rank[1].slower == pytest.approx(0.08, abs=0.02)
    assert by_place[2].slower == pytest.approx(0.05, abs=0.02)
    assert [one.entity for one in [*by_rank, *by_place] if one.is_straggler] == ["rank 1", "place 2"]
    two = [
        np.array([[factor * (1.05 if (rank + run) % 2 else 1.0)] * 4 for run in range(40)])
        for rank, factor in enumerate((1.0, 1.08))
    ]
    by_rank, by_place = rank_standings(two)
    assert [by_rank[1].slower, by_place[1].slower] == [pytest.approx(0.08), pytest.approx(0.05)], "exact for two"


def test_the_interval_of_blocks_is_wilcoxon_s() -> None:
    """Against SciPy's exact signed-rank test: the interval's end is the least shift that it rejects no more."""
    random = np.random.default_rng(5)
    times = [np.exp(0.02 * random.standard_t(4, (40, 1))) for _ in range(2)]
    one = rank_standings(times)[0][0]
    logs = np.log(times[0] / times[1])[:, 0].reshape(20, 2).mean(axis=1)

    def rejected(shift: float) -> bool:
        return bool(stats.wilcoxon(logs - shift, method="exact").pvalue <= 1e-4)

    for end, inside in ((math.log1p(one.low), 1e-9), (math.log1p(one.high), -1e-9)):
        assert rejected(end - inside)
        assert not rejected(end + inside)


class Polling:
    """An engine whose every step waits for a thread that computes: as gloo polls while another rank is slow."""

    device = "cpu"

    def __init__(self) -> None:
        self.between: Callable[[], None] | None = None
        self.polled_s: list[float] = []

    def between_steps(self, callback: Callable[[], None] | None) -> None:
        self.between = callback

    def generate(self, batch: TokenBatch, steps: int) -> None:
        for _ in range(steps):
            assert self.between is not None
            self.between()
            thread = threading.Thread(target=self._poll)
            thread.start()
            thread.join()

    def _poll(self) -> None:
        while time.thread_time() < 0.02:
            pass
        self.polled_s.append(time.thread_time())


def test_what_other_threads_of_a_rank_compute_while_it_waits_is_not_its_own() -> None:
    engine, ids = Polling(), np.ones((1, 2), dtype=np.int64)
    found = step_times(engine, ids=ids, mask=ids, steps=4, runs=2)["cpu_s"]
    assert isinstance(found, np.ndarray)
    assert found.shape == (2, 3)
    assert found.mean() < 0.25 * np.mean(engine.polled_s)


class Standing:
    """An engine that tells where its process may run during each generation."""

    device = "cpu"

    def __init__(self) -> None:
        self.stood: list[set[int]] = []

    def between_steps(self, callback: Callable[[], None] | None) -> None:
        self.between = callback

    def generate(self, batch: TokenBatch, steps: int) -> None:
        self.stood.append(os.sched_getaffinity(0))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no place to change to")
def test_a_rank_changes_cores_from_run_to_run_and_ends_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    engine, ids, before = Standing(), np.ones((1, 2), dtype=np.int64), os.sched_getaffinity(0)
    first, second = sorted(before)[:2]
    step_times(engine, ids=ids, mask=ids, steps=4, runs=3, cores=[[first], [second]])
    assert engine.stood == [{second}, {first}, {second}]
    assert os.sched_getaffinity(0) == before
