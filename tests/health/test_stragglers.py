"""A slow part is named, parts that are alike are not, and too little evidence names nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

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


def generations(seed: int, *, slow: float, ranks: int = 2, runs: int = 120, steps: int = 7) -> dict[str, np.ndarray]:
    """Times (runs, steps) of ranks that share a host: its ups and downs are common, and each rank has bad runs.

    A bad run is another job beside one rank: all its steps are up to 10 % slower, so steps are no independent evidence.
    """
    random = np.random.default_rng(seed)
    host = np.exp(np.cumsum(0.05 * random.standard_normal((1, runs, steps)), axis=2))
    disturbed = 1.0 + 0.10 * random.random((ranks, runs, 1)) * (random.random((ranks, runs, 1)) < 0.2)
    table = 2e-3 * host * disturbed * np.exp(0.02 * random.standard_t(4, (ranks, runs, steps)))
    table[-1] *= 1.0 + slow
    return {f"rank {rank}": times for rank, times in enumerate(table)}


def named_rank(times: dict[str, np.ndarray]) -> list[str]:
    return [one.entity for one in rank_standings(times) if one.is_straggler]


@pytest.mark.parametrize("ranks", [2, 8])
def test_a_rank_slower_by_five_percent_is_named_every_time(ranks: int) -> None:
    found = [named_rank(generations(seed, slow=0.05, ranks=ranks)) for seed in range(200)]
    assert found == [[f"rank {ranks - 1}"]] * 200


@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_that_are_alike_are_never_named(ranks: int) -> None:
    assert [named_rank(generations(seed, slow=0.0, ranks=ranks)) for seed in range(500)] == [[]] * 500


def test_steps_of_one_run_are_no_independent_evidence() -> None:
    """The reason why the interval is over runs: over steps it would hold the truth less often than it promises."""

    def missed(together: bool) -> int:
        count = 0
        for seed in range(300):
            times = generations(seed, slow=0.0, runs=16, steps=40)
            flat = {name: one.reshape(-1) for name, one in times.items()}
            one = (rank_standings(times) if together else standings(flat))[0]
            count += not one.low <= 0.0 <= one.high
        return count

    assert missed(together=True) <= 1
    assert missed(together=False) > 10


def test_one_mean_would_be_misled_by_one_long_stop() -> None:
    times = generations(3, slow=0.0)
    times["rank 0"][5, 3] *= 4000  # the host swapped, once
    assert times["rank 0"].mean() > 1.5 * times["rank 1"].mean()
    assert named_rank(times) == []


def test_times_of_ranks_need_runs_and_steps() -> None:
    with pytest.raises(ValueError, match="runs, steps"):
        rank_standings({"rank 0": np.ones(40), "rank 1": np.ones(40)})
    with pytest.raises(ValueError, match="too few"):
        rank_standings({"rank 0": np.ones((8, 90)), "rank 1": np.ones((8, 90))})


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
