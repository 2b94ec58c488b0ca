"""What is kept of a launch: the ratio that was put in, without the steps that were slowed on purpose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genqual.gate.launch_summary import correlation_time, launch_of, loads_of, single
from genqual.gate.sensitivity import blind
from genqual.metrics.compute import BadClock

STEPS = 184


def made(*, ratio: float = 2.0, slowed: float = 1.05, noise: float = 0.02, seed: int = 0, drift: float = 1.0) -> Any:
    """Times of one rank, and marks: a host that gets slower by `drift` over the launch, for both."""
    rng = np.random.default_rng(seed)
    host = np.linspace(1.0, drift, STEPS + 1)
    marks = np.stack([np.arange(STEPS) // 31, np.arange(STEPS) % 4 == 3], axis=1).astype(np.int64)
    candidate = ratio * host[:-1] * np.exp(noise * rng.standard_normal(STEPS))
    candidate[marks[:, 1] == 1] *= slowed
    frozen = host * np.exp(noise * rng.standard_normal(STEPS + 1))
    return 0.01 * np.stack([candidate, frozen[:-1], frozen[1:]], axis=1), marks


@settings(deadline=None, max_examples=30)
@given(st.floats(0.5, 5.0), st.floats(1.0, 3.0), st.integers(0, 1000))
def test_z_is_the_ratio_whatever_the_host_does(ratio: float, drift: float, seed: int) -> None:
    times, marks = made(ratio=ratio, drift=drift, seed=seed)
    found = launch_of([times], marks, cpu_share=1.0)
    assert found.z == pytest.approx(math.log(ratio), abs=0.012)
    assert found.steps == int((marks[:, 1] == 0).sum())


def test_what_was_slowed_on_purpose_is_seen_and_left_out() -> None:
    times, marks = made(slowed=1.5)
    found = launch_of([times], marks, cpu_share=1.0)
    assert found.z == pytest.approx(math.log(2.0), abs=0.01)
    assert np.mean(found.slowed) == pytest.approx(math.log(1.5), abs=0.02)
    assert np.mean(found.same) == pytest.approx(0.0, abs=0.02)


def test_the_fastest_twentieth_is_kept_of_both() -> None:
    times, marks = made(noise=0.2)
    found = launch_of([times], marks, cpu_share=1.0)
    plain = sorted(times[marks[:, 1] == 0, 0])
    frozen = sorted(np.sqrt(times[:, 1] * times[:, 2]))
    assert found.floor is not None
    assert found.frozen_floor is not None
    for floor, every in ((found.floor, plain), (found.frozen_floor, frozen)):
        below = sum(value < math.exp(floor) for value in every)
        assert below == pytest.approx(0.05 * len(every), abs=1)


def meeting(*, cores: tuple[float, float] = (1.0, 1.0), tail: float = 0.0, interrupted: float = 0.0) -> Any:
    """Times of two ranks that meet in every step and run reference steps of their own between; and marks.

    A core takes `cores` times as long for all it does; rank 0 goes on alone for `tail` of a step after the meeting; of
    each rank's reference steps `interrupted` take half as long again.
    """
    rng = np.random.default_rng(5)
    marks = np.stack([np.arange(STEPS) // 31, np.arange(STEPS) % 4 == 3], axis=1).astype(np.int64)
    now, samples = np.zeros(2), []
    frozen = [core * (1.0 + 0.5 * (rng.random(STEPS + 1) < interrupted)) for core in cores]
    now += [own[0] for own in frozen]
    for step in range(STEPS):
        end = now.max() + 2.0 * max(cores) + np.array([2.0 * tail, 0.0])
        samples.append([[end[rank] - now[rank], frozen[rank][step], frozen[rank][step + 1]] for rank in (0, 1)])
        now = end + [own[step + 1] for own in frozen]
    return list(0.01 * np.array(samples).transpose(1, 0, 2)), marks


@pytest.mark.parametrize("cores", [(1.0, 1.0), (1.0, 1.3), (1.3, 1.0)])
def test_a_core_that_is_slower_cancels_among_ranks_that_meet(cores: tuple[float, float]) -> None:
    times, marks = meeting(cores=cores)
    assert launch_of(times, marks, cpu_share=1.0).z == pytest.approx(math.log(2.0))


def test_interruptions_now_and_then_leave_the_median_alone() -> None:
    times, marks = meeting(interrupted=0.1)
    assert launch_of(times, marks, cpu_share=1.0).z == pytest.approx(math.log(2.0))


def test_what_one_rank_does_alone_after_the_others_is_of_the_step() -> None:
    times, marks = meeting(tail=0.1)
    assert launch_of(times, marks, cpu_share=1.0).z == pytest.approx(math.log(2.0 * 1.1))


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_times_that_cannot_be_are_no_launch(wrong: float) -> None:
    times, marks = made()
    times[17, 1] = wrong
    with pytest.raises(BadClock, match="step 17"):
        launch_of([times], marks, cpu_share=1.0)


def test_ranks_that_measured_different_steps_are_refused() -> None:
    times, marks = made()
    with pytest.raises(ValueError, match="one shape"):
        launch_of([times, times[:-1]], marks, cpu_share=1.0)


@pytest.mark.parametrize(("value", "against"), [(0.0, 1.0), (math.nan, 1.0), (1.0, 0.0)])
def test_a_single_value_that_cannot_be_is_refused(value: float, against: float) -> None:
    with pytest.raises(BadClock):
        single(value, against)


def test_a_single_value_is_compared_with_what_was_read() -> None:
    assert single(6.0, 2.0).z == pytest.approx(math.log(3.0))
    assert single(6.0, None).z == pytest.approx(math.log(6.0))


def test_load_time_is_the_median_of_loads_each_against_the_reads_around_it() -> None:
    host = np.array([1.0, 2.0, 1.0, 3.0, 1.0])  # how slow it is at each read; a load is as slow as the mean around it
    between = np.sqrt(host[:-1] * host[1:])
    ratios = np.array([4.0, 5.0, 9.0, 4.5])
    times = np.stack([ratios * between, host[:-1], host[1:]], axis=1)
    found = loads_of([times])
    assert found.z == pytest.approx(math.log(np.sqrt(4.5 * 5.0)))
    assert found.steps == 4
    assert found.p50 == pytest.approx(np.median(times[:, 0]))
    slower = times.copy()
    slower[:, 0] *= 2.0
    assert loads_of([times, slower]).z == pytest.approx(found.z + math.log(2.0)), "the slowest rank's"


@pytest.mark.parametrize("wrong", [0.0, math.nan])
def test_a_load_that_took_no_time_is_refused(wrong: float) -> None:
    times = np.ones((8, 3))
    times[2, 0] = wrong
    with pytest.raises(BadClock, match="load 2 of a launch"):
        loads_of([times])


@pytest.mark.parametrize("rho", [0.0, 0.45, 0.8])
def test_neighbours_that_are_alike_count_for_less(rho: float) -> None:
    """Of a first-order process it is known: (1 + rho) / (1 - rho)."""
    rng = np.random.default_rng(3)
    values = np.zeros(20_000)
    for index in range(1, len(values)):
        values[index] = rho * values[index - 1] + rng.standard_normal()
    assert correlation_time(values) == pytest.approx((1 + rho) / (1 - rho), rel=0.15)


def blocks(shift: float, noise: float, count: int, seed: int = 1) -> list[float]:
    return [shift + noise * float(x) for x in np.random.default_rng(seed).standard_normal(count)]


@pytest.mark.parametrize(
    ("same", "slowed", "said"),
    [
        (blocks(0.0, 0.02, 24), blocks(0.05, 0.02, 24), ""),
        (blocks(0.0, 0.02, 24), blocks(0.0, 0.02, 24), "cannot detect 5% on this host: such a slowdown reads"),
        (blocks(0.0, 0.02, 24), blocks(0.03, 0.3, 24), "cannot detect 5% on this host: such a slowdown reads"),
        (blocks(0.06, 0.01, 24), blocks(0.05, 0.02, 24), "equal blocks of steps differ by"),
        (blocks(0.0, 0.01, 3), blocks(0.05, 0.01, 3), "too few blocks"),
    ],
)
def test_a_gate_that_cannot_see_says_so(same: list[float], slowed: list[float], said: str) -> None:
    found = blind(same, slowed, 0.05)
    assert bool(found) == bool(said)
    assert said in found
